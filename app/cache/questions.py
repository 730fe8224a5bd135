"""Whole questions whose answer is of the moment, of the person who asks, or of what was said before.

They are matched against the plain form of a text, from its first word to its last: "how is the traffic" asks for the present
state, "how is the traffic of a site measured" does not.
"""

from __future__ import annotations

import re

# What is somebody's own, wherever it stands.
MINE = (
    r"account|balance|orders?|appointments?|calendar|schedule|meetings?|e-?mails?|inbox|unread|messages?|bookings?|"
    r"reservations?|subscription|invoices?|bills?|payments?|transactions?|refunds?|deliver(?:y|ies)|packages?|parcel|"
    r"shipping address|billing address|address on file|payslip|vacation days|leave balance|holidays left|"
    r"prescriptions?|test results|password reset|tickets?|statements?|profile|portfolio|shopping cart|basket|claims?"
)

# Live things ask for their present value, unless a time is named (TIMELESS).
_SKY = r"(?:weather|forecast|temperature|air quality|humidity|pollen(?: count)?|uv index|surf|swell|tides?|snow|sea|wind(?: speed)?|chance of (?:rain|snow))"
_STATE_NOW = (
    r"(?:open|closed|shut|down|up|offline|over|ready|busy|crowded|packed|full|on|off|out|back|here|there|live|clear|blocked|free|"
    r"available|good|cancel+ed|delayed|postponed|sold out|in stock|in session|fixed|repaired|finished|on time|late|running|working|under way|at the door)"
)
_SKIES = r"(?:rain|snow|storm|hail)(?:ing|y)?|hot|cold|warm|wet|dry|icy|cloudy|foggy|dark|freezing|humid|sunny|windy"
_ASSET = (
    r"(?:bitcoins?|btc|ethereum|ether|eth|dogecoin|solana|litecoin|crypto\w*|gold|silver|platinum|palladium|copper|nickel|"
    r"lithium|(?:crude |heating )?oil|brent(?: crude)?|petrol|gasoline|gas|diesel|wheat|corn|soybeans?|cocoa)"
)
_CURRENCY = (
    r"(?:(?:us |canadian |australian )?dollars?|euros?|(?:british )?pounds?|sterling|yen|(?:indian )?rupees?|"
    r"(?:swiss )?francs?|yuan|renminbi|(?:mexican )?pesos?|kron[aeo]r?|zloty|rand|usd|eur|gbp|jpy|inr|cad|aud|chf|cny|[$€£¥₹])"
)
_GAME = r"(?:game|match|race|fight|derby|final|semi-?final|play-?offs?|cup|league|election|vote)"
_RIDE = r"(?:trains?|flights?|plane|bus|buses|tram|metro|tube|subway|underground|ferry|line|airport|road|bridge|tunnel|motorway|highway)"
_LIVE_VALUES: tuple[str, ...] = (
    rf"(?:(?:what|how) (?:is|are|will) the |the )?(?:\w+ )?{_SKY}(?: forecast| report| conditions| be)*(?: like| looking)?"
    r"(?:(?: (?:in|for|at|near|around) .{1,40})| here| outside| now)",
    rf"(?:what|how) (?:is|are) the (?:{_SKY})(?: like)?|(?:the )?weather(?: forecast| report)?|weather (?!(?:the|vane|balloon|app)\b)\w+",
    r"how deep is the snow\b.*|do i need (?:an? |my )?(?:umbrella|coat|jacket|sweater|sunscreen|raincoat|boots|gloves)(?: (?:in|for|out|to go) .{1,25}| outside)?",
    rf"(?:is|are) the (?:{_SKY}|slopes|roads|beaches) \w+ (?:in|at|on|near) .{{1,40}}",
    rf"(?:is|will) it (?:be |going to |be going to |gonna )?(?:{_SKIES})\b.*|how (?:{_SKIES}) (?:is|will) it\b.*",
    r"(?:what time|when) (?:is|does|will) (?:the )?(?:sunset|sunrise|sun (?:set|rise)|high tide|low tide)\b.*",
    rf"(?:what|how much) (?:is|are) (?:the )?(?:{_ASSET}|{_CURRENCY}) (?:worth|at|trading at|doing|going for)|(?:is|are) (?:the )?(?:{_ASSET}|{_CURRENCY}|\S+ stock) (?:going |getting )?(?:up|down|cheaper|rising|falling|stronger|weaker)|"
    rf"(?:(?:what|how much) (?:is|are) )?(?:the )?(?:current |spot )?(?:price|value|rate|cost)s? of (?:an? |one )?"
    rf"(?:\w+ of )?{_ASSET}(?: stock| futures)?(?: (?:in|per|an?) .{{1,20}})?",
    rf"(?:what (?:is|are) )?(?:the )?{_ASSET}(?: spot)? (?:prices?|value|rate)(?: (?:in|per|an?) .{{1,20}})?",
    rf"how much (?:is|are|does|do) (?:an? |one |the )?(?:\w+ of )?{_ASSET}(?: cost| worth| going for| trading at)*"
    r"(?: (?:in|per|an?) .{1,20})?",
    r"(?:what is |check )?(?:the )?(?!an? |the )(?:[\w.&]+ ){1,3}(?:stock|share) (?:price|quote)",
    r"(?:what is )?(?:the )?(?:stock|share) (?:price|quote) (?:of|for) .{1,30}",
    r"(?:how much (?:is|are) )?(?!(?:what|an?|the|how|buy|sell|beef|chicken|fish|vegetable|common|preferred|penny|growth|rolling|live) )(?:[\w.&]+ ){1,2}(?:stock|shares)",
    r"(?:what|where|how) (?:is|are|did|was) (?:\S+ ){1,4}(?:trading at|clos(?:e|ing) at|stock (?:doing|close|end)|shares doing)",
    r"(?:(?:what|where) (?:is|are) )?(?:the )?(?:current )?(?:\w+ )?(?:interest|mortgage|savings|inflation|unemployment|prime|base|repo|fed(?:eral)? funds) rates?"
    r"(?: (?:on|for|in|at|of) .{1,40})?",
    r"(?:what|where|how) (?:is|are) (?:the )?(?:(?:stock )?markets?|dow(?: jones)?|nasdaq|s&p(?: 500)?|ftse|dax|nikkei) (?:at|doing|up|down|open|closed)|how did the (?:\S+ )?(?:market|dow|nasdaq|s&p|ftse|dax|nikkei|index) (?:finish|close|end|do)",
    rf"(?:what is )?(?:the )?(?:exchange|conversion) rate (?:of|for|from|between) .*\b{_CURRENCY}(?!\w).*",
    rf"(?:convert |change )?(?:[$€£¥₹] ?\d[\d.,]*|(?:\d[\d.,]* ?)?{_CURRENCY}) (?:to|in|into) {_CURRENCY}",
    rf"how (?:much|many) .*{_CURRENCY}.* (?:in|to|for|worth in) (?:an? )?{_CURRENCY}",
    r"(?:who|which \w+) is (?:now )?(?:winning|leading|ahead|in the lead|on top|up in the polls)\b(?! (?:in|a|an|at) ).*",
    rf"who (?:won|lost) (?:the )?(?:[\w']+ ){{0,3}}{_GAME}|who (?:scored|qualified|played)(?: (?:in|for|at) (?:the )?(?:[\w']+ ){{0,3}}{_GAME})?",
    rf"did (?:the )?(?:[\w']+ ){{1,2}}(?:win|lose|score|qualify|play)(?: (?:the {_GAME}|(?:his|her|their) .{{1,20}}|again))?",
    r"did (?:the )?(?:[\w']+ ){1,2}(?:beat|draw with|lose to) (?:the )?[\w']+(?: [\w']+)?",
    r"who (?:got|was|has been|is) (?:eliminated|sacked|knocked out|voted (?:out|off)|injured|traded|sent off|suspended)\b.*",
    r"who is (?:playing|performing|starting|speaking|top|first|last|bottom|number one) (?:on|in|at|of|for) .*",
    r"how many (?:points|wins|goals|medals|seats|delegates|followers|subscribers) (?:do|does|has|have) .{1,40} (?:have|got|won|scored)(?: so far)?",
    rf"(?:what (?:is|was) )?(?:the )?(?:final )?score (?:(?:of|in|for) .*\b{_GAME}|in the \w+)|(?:the )?(?:[\w']+ ){{1,3}}(?:standings|live scores?|league table)",
    rf"(?:when|what time) (?:is|are|does|do|will) .*\bnext\b.*|where (?:is|are|does|do|will) .*\bnext {_GAME}\b.*",
    r"(?:when|who|where) (?:does|do|will) (?:the )?[\w' ]{2,25} play(?: next| again)?",
    r"(?:how (?:is|bad is|heavy is)|what is|is there|any|show)(?: the| any| much| heavy)* traffic(?: like| jams?)?(?: (?!to\b|.*\b(?:network|web\w*|site|called)\b).*)?",
    rf"(?:is|are) (?:there )?(?:an? |any |the )?(?:[\w']+ ){{0,4}}{_RIDE}\b.*\b(?:delayed|cancel+ed|running|closed|open|blocked|on time|late)",
    rf"(?:is|are) there (?:an? |any |still )*(?:delays?|disruptions?|strikes?|cancellations?|jams?)\b.*{_RIDE}.*",
    rf"(?:is|are) the (?!.*\b(?:set|ball|interval|circuit|source|system|class)\b)(?:[^\s,]+ ){{1,6}}?(?:still |already |back )?{_STATE_NOW}(?: (?:in|at|near) .{{1,25}}| (?:on )?\w+day)?",
    r"(?:are|is) there (?:any |still |an? )*(?:seats?|tickets?|rooms?|tables?|spots?|slots?|places|vacanc(?:y|ies)|openings|copies)\b.*"
    r"(?:left|available|free|open)\b.*",
    r"(?:is|are) there (?:an? |any |still )*(?:\S+ )?(?:strike|warning|alert|delay|queue|power cut|outage|blackout|storm|fire|tornado|hurricane|accident|crash|protest|sale|wait)s?\b.*",
    r"any (?:accidents|delays|updates?|incidents|closures|roadworks|outages?|word)(?: (?:on|in|about|at|with|for|from) .*)?",
    r"who is (?:calling|online|on (?:call|duty|air)|at the door|hosting .*)|what is (?:for|on the menu for) (?:breakfast|lunch|dinner)|what is on the menu",
    r"how many (?:\S+ ){1,3}(?:are|is) (?:online|waiting|here|signed up|in (?:the )?(?:queue|office|building|line))\b.*",
    r"(?:who|what|which \w+) (?:is|are) the current (?!in\b|through\b|flowing\b|of\b|when\b|if\b|across\b|that\b).*",
    r"(?:what|which|list|show|any|are there)\b.*\bupcoming\b.*|upcoming .*",
    rf"how (?:is|are) the {_CURRENCY} (?:doing|performing|holding|against).*",
    r"did (?:the )?(?:\S+ ){1,3}(?:raise|cut|hike|lower|resign|crash)(?: (?:interest )?rates)?",
    r"(?:is|are|was|were) (?:\S+ ){1,4}(?:cancel+ed|delayed|postponed|sold out|in stock|at the door|busy|crowded)|is (?:dinner|lunch|breakfast|any(?:one|body)) (?:at|home|here|there|in|on|ready|served)\b.{0,25}",
    r"(?:has|have|is|are|did|does|do) .{1,60} yet|(?:is|are) .{1,40} still (?:open|alive|on|up|down|raining|snowing|available|running|single|missing|in .*)",
    r"how (?:is|are) the (?:\S+ ){1,4}(?:going|progressing|shaping up|looking)|what are people saying about .*|(?:what|what else) is (?:playing|showing|on) (?:at|in) .*",
    r"(?:has|have) (?:\S+ ){1,4}(?:landed|taken off|departed|been (?:released|announced|fixed|cancel+ed|restored|resolved|rescheduled))",
    r"(?:who|what|where|which|how|is|are)\b(?!.*\b(?:should|can|could|would|do i|must|to|years?|till|if)\b).* (?<!from )now",
    r"(?:has|have) the .{1,40} (?:ended|started|begun|arrived|landed|finished|stopped|passed|resumed|reopened|resigned|been \w+ed)",
    r"how (?:busy|crowded|packed|full) (?:is|are) .*|(?:what|how (?:long|bad|heavy)) (?:is|are) the (?:wait|queue|line|congestion|delays?)(?: time)? (?:at|for|in|to|on) .*",
    r"(?:what is |any |show |give |read |get )?(?:me )?(?:in )?(?:the |any |some |more )?(?:latest |top |breaking |local |world )?"
    r"(?:news|headlines)(?: (?:on|about|from|in|for|of) .*)?",
    r"(?:the )?(?:latest|newest|breaking)(?: news| updates?)? (?:on|about|from|in) .*",
    r"what is (?:happening|going on)(?: (?:here|in the (?:world|news)))?|what is (?:the )?(?:latest|new|score)(?: (?:in the world|(?:with|on|about) .*))?|(?:who|what) is trending.*",
    r"(?:what|which) (?:is|are|movies? (?:is|are)|films? (?:is|are)|shows? (?:is|are)) "
    r"(?:showing|playing|out|on|in) ?(?:(?:in |at )?(?:the )?(?:tv|television|cinemas?|theat(?:er|re)s?|movies))?",
    r"(?:is|are) (?:the )?(?:[\w.-]+ ){1,3}(?:down|offline|unreachable|having (?:an? )?(?:outage|issues|problems))(?: again| for everyone)?",
)  # fmt: skip
TIMELESS = re.compile(
    r"\b(?:1\d{3}|20\d\d|january|february|march|april|in may|june|july|august|september|october|november|december|"
    r"winter|summer|spring|autumn|monsoon|seasons?|usual(?:ly)?|typical(?:ly)?|average|normal(?:ly)?|generally|ever|history|"
    r"mercury|venus|mars|jupiter|saturn|uranus|neptune|pluto|moon|space|code|function|script|apps?|api)\b"
)
ABOUT_WORDS = re.compile(r"\b(?:song|film|movie|novel|album|poem|lyrics|word|meaning|mean|say)\b")
_MOMENT = (
    r"(?:who|what|which|where|when|how (?:many|much|long|late|busy)|is|are|do|does|did|will|has|have)\b.*\b"
    r"(?:right now|at the moment|as of now|tonight|this (?:morning|evening)|last night|yesterday|tomorrow|later today)",
    r"(?:what|when|who|where|which|how|is|are|do|does|did|will|any)\b.*\b(?:open|closed?|costs?|sets?|rises?|rain|snow|"
    r"happened|starts?|plays?|serving|showing|offering|happening|running|games?|match|trains?|flights?|menu|umbrella|coat|jacket)\b.*\b(?:today|this (?:afternoon|week(?:end)?))",
)  # fmt: skip
_THING = (
    rf"(?:{MINE}|flights?|planes?|trains?|bus|ride|taxi|cab|driver|luggage|suitcases?|bags?|cards?|insurance|policy|lease|rent|"
    r"mortgage|loan|contract|warranty|membership|licen[cs]e|visa|application|shift|exams?|class(?:es)?|interview|lab results|"
    r"results|salary|pay ?check|deposit|transfer|shipment|repairs?|requests?|purchases?)"
)
_LIST = r"(?:(?:\S+ )?lists?|calendar|diary|schedule|cart|basket|account|inbox|notes|reminders|queue|plate|agenda)"
_STATE = (
    r"(?:delayed|late|on time|cancel+ed|confirmed|approved|accepted|processed|ship(?:ped)?|dispatched|deliver(?:ed)?|arriv(?:e|ed)|"
    r"ready|due|paid|charged|expir(?:e|ed)|active|valid|overdue|blocked|declined|g(?:o|one) through|received|sent|leav(?:e|ing)|"
    r"land(?:ed|ing)?|depart(?:ed|ing)?|renewed?|scheduled|booked|coming|here|in transit|lost|open)"
)
_FACT = (
    r"(?:(?:first |last |full |middle |user )?names?|(?:e-?mail |home |postal |ip )?address|e-?mail|ip|phone|(?:\w+ )?(?:number|id|pin|score|"
    r"limit|plan|tier|rate|status|grade|gpa)|(?:\S+ )?(?:password|passcode)|username|birthday|age|height|weight|blood type|salary|"
    r"location|usage|spending|rank|role|manager|job title|bmi)"
)
_KNOWN = (
    r"(?:boss|manager|supervisor|doctor|dentist|landlord|teacher|tutor|advis[oe]r|lawyer|representative|agent|contact|"
    r"(?:account|case) (?:manager|worker)|emergency contact)"
)
_AGENDA = (
    r"(?:meetings?|appointments?|messages?|mails?|e-?mails?|calls?|voicemails?|plans|events?|class(?:es)?|homework|tasks?|reminders?|"
    r"orders?|tickets?|bookings?|reservations?|notifications?|credits?|points|miles|balance|debts?|invoices?|bills?|payments?|"
    r"deliver(?:y|ies)|packages?|subscriptions?|shifts?|coupons?|vouchers?|deadlines?|exams?|fines?)"
)
_DONE = (
    r"(?:park(?:ed)?|put|leave|left|saved?|walk(?:ed)?|run|sle(?:ep|pt)|sp(?:end|ent)|buy|bought|order(?:ed)?|pay|paid|sa(?:y|id)|"
    r"wr(?:ite|itten)|tell|told|ask(?:ed)?|book(?:ed)?|meet|used?|get|got|earn(?:ed)?|burn(?:ed|t)?|eat(?:en)?|scheduled?|visit(?:ed)?|"
    r"watch(?:ed)?|send|sent|call(?:ed)?|promised?|taken?|miss(?:ed)?|charged|billed|receive[d]?|register(?:ed)?|submit(?:ted)?|"
    r"renew(?:ed)?|repl(?:y|ied)|invited|exceeded|lock(?:ed)?)"
)
# What is "my zodiac sign" or where "my appendix" is, the same answer tells everybody, or none does.
_COMMON = (
    r"appendix|spleen|liver|kidneys?|pancreas|thyroid|gall ?bladder|heart|purpose|destiny|fate|zodiac\b.*|star sign|soul ?mate|passion|"
    r"personality\b.*|problem|fault|mistake|(?:options?|rights?|liability|chances?|duties)\b.*|clipboard|.*\b(?:in|on|with|about|like|called|made|doing|wrong)\b.*"
)
_ABOUT_ME: tuple[str, ...] = (
    r".*\b(?:near(?:est|by)?(?: to)? (?:me|here)|around here|close to me|closest to me|in my (?:area|city|town|neighbou?rhood))",
    r"(?:where|which|what|how far) (?:is|are) the (?:nearest|closest) .*",
    rf"(?:what|where|when|who|which|(?:what|which) \w+|how (?:much|many|long|far|high|big|heavy)) (?:is|are|was|were) my (?!(?:{_COMMON})$)(?:\S+ ){{0,3}}\S+",
    r"how (?:many|much) (?:\S+ ){1,4}(?:do|did|have|had) i (?:have|had|got|get|own|need to do)(?: left)?(?: .{1,20})?",
    r"(?:which|what) \w+ am i (?:in|on|at|from|with|assigned to|booked on|working on)",
    r"(?:what|which|who|where|when)(?: \w+){0,2} am i (?!doing\b|missing\b|looking\b|feeling\b)\w+ing\b.*|am i on the .*",
    r"when do i (?:see|meet|start|fly|leave|arrive|land|finish|get paid|go)\b.*|who is (?:coming|going|invited) to my .*",
    r"what did my (?:\S+ ){1,2}(?:say|reply|write|send|want|order|ask|cost|recommend|prescribe)\b.*",
    r"do i have (?:any|enough) (?!rights?|chances?|options?|recourse|hope)(?:\S+ ){0,3}(?:left|for .{1,30})?",
    r"did i (?!do\b|make\b)\w+ .*|who (?:called|e-?mailed|texted|messaged|wrote(?: to)?|invited|contacted|booked|paid) me\b.*",
    r"track (?:package|parcel|order|shipment|flight) \S+|(?:order|flight|shipment|tracking) (?:number |status )?\S*\d\S*(?: status)?",
    rf"(?:is|are|was|were|has|have|did|does|will|can you (?:check|see) (?:if|whether|when)|check (?:if|whether)) my "
    rf"(?:\w+ ){{0,2}}{_THING}\b(?: \w+){{0,3}} {_STATE}\b(?! (?:in|for|to|as|with|on|at) ).*",
    r"(?:is|are|was|were|has|have|did) my (?:\S+ ){1,4}?(?:been |already |still |yet )*(?:booked|confirmed|approved|accepted|shipped|delivered|delayed|arrived|"
    r"processed|paid|scheduled|expired|active|ready|overdue|declined|on time|renewed|dispatched|pending|posted|credited|frozen|locked|suspended|under warranty|insured|covered|in|on|online)",
    r"when (?:is|does|will|did) my (?!period|life)(?:\S+ ){1,3}(?:arrive|come|due|expire|start|end|over|renew|ready|leave|land|ship|get here|be (?:ready|back|here|delivered))",
    r"(?:how (?:much|many)|what)(?: \w+)? (?:is|are) (?:left|available|due|still|owed|remaining|pending|on|in) (?:on |in |of |for |from )?my .*",
    r"why (?:was|am|were|have) i (?:been |being |still |not )*(?:charged|billed|rejected|denied|blocked|banned|locked out|declined|refused|logged out|suspended)\b.*",
    r"who (?:\w+ed|took|wrote|sent|paid|has|changed|signed) my (?!life|heart|name\b)(?:\S+ ){0,2}\S+",
    r"how (?:is|are|was|were) my (?:\S+ ){1,3}(?:doing|looking|going|performing|coming along)",
    rf"(?:when|what time|where|(?:which|what) \w+) (?:is|are|was|were|does|do|did|will|has) my "
    rf"(?:\w+ ){{0,2}}(?:{_THING}|phone|keys|car|wallet|passport|glasses|money|food|pizza)\b(?!').*",
    rf"(?:.{{1,30}} )?(?:where|when) my (?:\w+ ){{0,2}}{_THING} (?:is|are|was|will|has)\b.*",
    rf"why (?:is|was|were|has|did|are) my (?:\w+ ){{0,1}}{_THING} (?:been |get |still |not )*{_STATE}",
    rf"(?:what (?:is|are|was|do|does|did) )?my (?:\w+ ){{0,2}}{_FACT}(?: (?:on file|again|now|say|today|(?:for|this|last|in) .{{1,25}}))?",
    r"what (?:is|was) the (?:status|state|balance|total|progress|amount|date|time|number) (?:of|on|for) my .*",
    r"what (?:do|does|did|are) (?:\w+ ){0,4}?my (?:\w+ ){0,2}(?:results?|scans?|tests?|contract|policy|lease|bill)(?: say| show| about)*",
    rf"who(?:'s| is| was)? my (?:\w+ )?{_KNOWN}|who am i|where am i|how (?:old|tall) am i",
    rf"what is (?:on|in|left (?:on|in)|next on) my {_LIST}(?: .*)?",
    rf"(?:do|did|have) i (?:still |currently |already )?(?:have|got|get|missed?) (?:any(?:thing)? |an? |some |new |unread |upcoming |more )*"
    rf"(?:\w+ )?(?:{_AGENDA}|scheduled|planned|due)\b(?! (?:if|when)\b)(?: .*)?",
    r"(?:do|what do|who do|how much (?:\w+ )?do) i (?:still |currently )?owe\b(?!.*\bif\b).*",
    r"am i (?:still |already |currently )*(?:free|busy|booked|scheduled|enrolled|registered|signed (?:up|in)|logged in|subscribed|"
    r"overdrawn|on call|invited|flying|up to date|working (?:on \w+day|today|tomorrow|this|next))(?: (?!to\b|of\b).*)?",
    r"(?:who|what|when|where|which \w+|what time) am i (?:meeting|seeing|flying|working|scheduled|due|booked|staying|supposed to be)\b.*",
    r"(?:where|when|who|what|which \w+|what \w+|how (?:much|many|far|long|often)(?: \w+){0,3}) (?:did|have|had) i (?:last |already |just |ever )?(?!do\b|done\b|make\b|become\b|to\b)\w+\b(?!.*\bif\b).*",
    rf"(?:have|did) i (?:already |been |just |ever )*{_DONE}\b(?! (?:up|a mistake)\b)(?: .*)?",
    r"(?:any|are there any|got any|is there any) (?:new |unread |missed |important )+\w+(?: for me)?",
    r"did (?:any|some)(?:one|body) (?:call|text|e-?mail|message|write|ask for|reply|answer)(?: (?:to )?me| back)?|did \w+ (?:call|text|e-?mail|write|reply|answer|respond)(?: (?:to )?me| back)?",
    r"(?:has|have|did) .{1,30} (?:answer(?:ed)?|repl(?:y|ied) to|respond(?:ed)? to|read|seen?|approved?|accept(?:ed)?) my .*",
    r"(?:how (?:many|much)|what)(?: \S+){0,3} did we \w+ .*\b(?:last|this|yesterday|today)\b.*",
    rf"(?:add|put|remove|book|move|confirm|return|refund|cancel|pay|read|play|open|print|show|track|reschedule|check|download)(?: me)?\b"
    rf"(?:(?!\b(?:in|how|that|which)\b).)* my (?:\w+ ){{0,2}}(?:{MINE}|{_LIST}|flights?|bags?|voicemails?)",
    r"remind me\b.*|set (?:an? |my |the )(?:\w+ )?(?:alarm|timer|reminder)\b.*|wake me\b.*",
    r"(?:do you )?(?:still )?remember (?:me|my|what i|who i|when (?:we|i))\b.*",
)  # fmt: skip
_EARLIER = (
    r"what (?:did|have) (?:we|you) (?:just )?(?:talk|discuss|decide|agree|say|said|told|mean|recommend|suggest)\w*\b.*",
)  # fmt: skip


def _any(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


LIVE_VALUE = _any(_LIVE_VALUES)
AT_THE_MOMENT = _any(_MOMENT)
ABOUT_ME = _any(_ABOUT_ME)
FROM_BEFORE = _any(_EARLIER)
