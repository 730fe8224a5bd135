"""Answers that decline to answer, in English and the languages next in use: they must be kept for nobody."""

from __future__ import annotations

import re

_LONGEST = 1000  # characters: a longer text goes on to answer


def refused(text: str) -> bool:
    """Whether an answer declines to answer. Models that do say so at once, and little else."""
    return len(text) <= _LONGEST and "```" not in text and _REFUSAL.match(text) is not None


_EXCUSE = (
    r"(?:no|(?:i['’]?m|i am|we['’]re|we are) (?:very |so |truly |really )?sorry|(?:my )?(?:sincere )?apologies|sorry|i (?:sincerely )?apologi[sz]e(?: for (?:the|any) \w+)?|"
    r"unfortunately|regrettably|i regret(?: to (?:say|inform you))?|i['’]?m afraid|i am afraid|thank you for (?:asking|your \w+)|"
    r"while i (?:understand|appreciate)[^,.]{0,60}|i (?:understand|appreciate)[^,.]{0,60})"
)
_AS_A_MODEL = (
    r"(?:as an? (?:\w+ ){0,4}?(?:ai|model|assistant|chatbot|bot)\b[^,.]{0,40},?|"
    r"i(?:['’]m| am) (?:just |only |merely |programmed |designed )?(?:to be )?an? (?:\w+ ){0,4}?(?:ai|model|assistant|chatbot|bot)\b[^,.]{0,60}(?:,? (?:and|so|but)\b|[,.;]))"
)
_CANNOT = (
    r"(?:(?:i|we)(?:['’](?:m|re|ll|d)| am| are| would)?|and) (?:simply |just |also |currently |really |respectfully |have to |need to |must )*"
    r"(?:can(?:not|['’]t| not)|(?:be )?unable to|not able to|(?:won['’]t|will not|would not|wouldn['’]t)(?: be able to)?|decline|refuse|"
    r"(?:do(?: not|n['’]t) feel |not )comfortable|not (?:permitted|allowed|designed|programmed|authorized|going) to|uncomfortable|"
    r"should(?: not|n['’]t)|(?:rather|prefer) not(?: to)?)"
    r"(?! (?:wait|believe|imagine|recommend|stress|say|think|see|lie|help (?:but|it|\w+ing)\b))"
)
_LACKS = r"i do(?: not|n['’]t) have (?:\w+ ){0,2}?(?:access|ability|permission|capability|authority|authorization|live|real-time)\b"
_THAT = (
    r"(?:(?:that|this|it)(?:['’]s| is) (?:not (?:something|a \w+) (?:that )?i(?: can|['’]m| am)|something (?:that )?i "
    r"(?:can(?:not|['’]t| not)|['’]m (?:not|unable)|am (?:not|unable)|won['’]t|will not)|(?:outside|beyond|against) (?:of )?(?:my|what i|the scope of (?:my|what i))\b)|"
    r"(?:that|this|it|(?:this|that|your) request) (?:goes against|violates) (?:my|our|the \w+ (?:policy|policies|guidelines))\b)"
)
_ACT = (
    r"(?:(?:to|with|in|and|not|or|that|this|will|good|conscience|be|able|ethically|directly|you) )*"
    r"(?:assist\w*|help\w*|provid(?:e|ing)|answer\w*|comply\w*|fulfil+\w*|access\w*|do|support\w*|discuss\w*|engag(?:e|ing)|creat(?:e|ing)|generat(?:e|ing)|"
    r"continu(?:e|ing)|proceed\w*|shar(?:e|ing)|offer\w*|advis(?:e|ing)|giv(?:e|ing)|process\w*|complet(?:e|ing)|talk\w*|writ(?:e|ing)|produc(?:e|ing)|"
    r"participat(?:e|ing)|respond\w*|browse|view|open|make|send|search|retrieve|execute|perform|verify|book|request|that|this)\b"
)
# Other languages: an excuse or none, then that it cannot be done, then what.
_ELSEWHERE = (
    # Spanish
    r"(?:(?:lo siento|lo lamento|me temo que|(?:solo )?soy (?:solo )?un\w*[^,.]{0,40}? y|disculpa|perdona|perdón|lamentablemente|desafortunadamente|como (?:modelo|ia|asistente)[^,.]{0,60})[\s,.]*(?:pero )?)?"
    r"(?:lamento no poder|no (?:te |le |os |me )?(?:puedo|podemos|podré|es posible|estoy (?:autorizad|capacitad|en condiciones)\w*|me es posible)|eso no es algo)"
    r"[^.]{0,60}\b(?:ayud\w*|asist\w*|responder|contest\w*|proporcion\w*|ofrecer\w*|cumplir|hacer (?:eso|esto)|hacer(?:lo)?|gener\w*|crear|dar\w*|compart\w*|acceder|continuar|pueda)",
    # German
    r"(?:(?:es )?(?:tut mir (?:sehr )?leid|entschuldigung|leider|bedauerlicherweise|ich bedaure|ich bin (?:nur )?ein\w*[^,.]{0,40}? und|als (?:ki|sprachmodell|assistent)\b[^,.]{0,40})[\s,.]*(?:aber )?(?:dass )?)?"
    r"(?:das ist etwas,? (?:wobei|bei dem|das) ich|(?:das |dabei |hierbei |damit )?(?:kann|darf|möchte|werde)(?: (?:ich|wir))?|ich (?:kann|darf|möchte|werde)|ich bin nicht in der lage)[^.]{0,30}\b(?:nicht|leider|keine?n?|in der lage)\b"
    r"[^.]{0,60}\b(?:helfen|weiterhelfen|unterstützen|beantworten|bereitstellen|erstellen|geben|machen|tun|liefern|nachkommen|erfüllen|behilflich|entsprechen)",
    # French
    r"(?:(?:(?:je suis )?(?:vraiment )?(?:désolée?|navrée?)|je (?:ne )?suis (?:qu['’]|seulement )?une?[^,.]{0,40}? et|pardon|malheureusement|je regrette|je m['’]excuse|en tant qu['’](?:ia|assistant|intelligence)[^,.]{0,40}|en tant que modèle[^,.]{0,40})[\s,.]*(?:mais )?)?"
    r"(?:je ne (?:peux|puis|suis|pourrai|saurais)|il (?:ne )?m['’]est impossible|ce n['’]est pas quelque chose)"
    r"[^.]{0,60}\b(?:aider|assister|répondre|fournir|accéder|donner|générer|créer|faire (?:cela|ça)|satisfaire|partager|continuer|puisse|peux)",
    # Italian
    r"(?:(?:mi (?:dispiace|spiace|scuso)|scusa\w*|purtroppo|sono spiacente|(?:sono|io sono) (?:solo |soltanto )?un['’ao ]?[^,.]{0,40}? e|come (?:modello|ia|assistente|intelligenza)[^,.]{0,60})[\s,.]*(?:ma )?)?"
    r"(?:non (?:ti |vi |le |mi )?(?:posso|possiamo|sono in grado|è possibile|potrò)|non è qualcosa)"
    r"[^.]{0,60}\b(?:aiutar\w*|assister\w*|risponder\w*|fornir\w*|farlo|fare (?:questo|ciò)|generar\w*|crear\w*|dar\w*|offrir\w*|soddisfar\w*|continuare|possa)",
    # Portuguese
    r"(?:(?:(?:me )?desculp\w*|(?:eu )?(?:sinto|lamento)(?: muito)?|infelizmente|lamentavelmente|perdão|(?:eu )?sou (?:apenas )?uma?[^,.]{0,40}? e|como (?:modelo|uma? (?:ia|assistente|modelo))[^,.]{0,60})[\s,.]*(?:mas )?)?"
    r"(?:(?:eu )?não (?:te |lhe |o |a )?(?:posso|podemos|consigo|poderei|sou capaz|é possível)|isso não é algo)"
    r"[^.]{0,60}\b(?:ajud\w*|auxili\w*|respond\w*|fornec\w*|fazer (?:isso|isto)|fazê-lo|gerar|criar|dar|oferec\w*|atend\w*|continuar|possa)",
)  # fmt: skip
_REFUSAL = re.compile(
    rf"\W*(?:{_EXCUSE}[\s,.:;!—-]*)?(?:(?:but|that|however),? )?(?:{_AS_A_MODEL}\s*)?(?:(?:but|so|and|unfortunately),? )*"
    rf"(?:{_EXCUSE}[\s,]*(?:but )?)?"
    rf"(?:{_CANNOT}(?: {_ACT}|[.!]?\s*$)|{_LACKS}|{_THAT}|can(?:not|['’]t) (?:help|assist)\b)"
    rf"|\W*{_AS_A_MODEL}\s*(?:and |so |but )?(?:i )?(?:am not able to|['’]m not able to|can(?:not|['’]t)|do(?: not|n['’]t) have)\b"
    rf"|\W*(?:{'|'.join(f'(?:{language})' for language in _ELSEWHERE)})",
    re.IGNORECASE,
)
