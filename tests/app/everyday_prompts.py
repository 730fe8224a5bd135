"""Everyday prompts, a line each: those whose answer is not for others, and those that only sound so."""

REFUSED = """\
What's the weather in London?
bitcoin price
Who won the game last night?
Is my flight delayed?
Where's my package?
Do I have any meetings?
What is my name?
How cold is it in Oslo?
Will it rain tomorrow?
Do I need an umbrella today?
Weather forecast for Lisbon
weather tokyo
Is it snowing in Denver?
What's the air quality in Delhi?
What is Tesla stock trading at?
How much is an ounce of gold?
price of crude oil
TSLA share price
What's the exchange rate between the pound and the euro?
usd to inr
Did the Lakers win?
What's the score of the Arsenal match?
Who is leading the Tour de France?
Who is winning the election?
Premier League standings
When is the next train to Leeds?
How's the traffic on the I-95?
Is there a delay on the Northern line?
Is the bakery on Elm Street open?
Is the supermarket still open?
What's in the news?
Any news about the earthquake?
What happened in parliament yesterday?
What's on TV tonight?
Which films are in cinemas?
Is GitHub down?
What are mortgage rates right now?
How much does diesel cost today?
Are there any flights from Boston to Miami tonight?
What time does the sun set today?
How many people are in space right now?
How is the Dow doing?
ethereum price in usd
When does the pharmacy close today?
Latest on the hurricane
Is the ferry to Calais running?
When do the Bulls play next?
How hot will it be this weekend?
What's my email address?
What's my wifi password?
Has my refund been processed?
Did my payment go through?
Am I free on Thursday afternoon?
When does my lease expire?
When is my rent due?
How much do I owe?
How many steps did I walk this week?
What's on my calendar?
What's on my to-do list?
Remind me to call the dentist
What do my lab results say?
Where did I park?
What is my blood type?
What's my credit score?
What's the status of my application?
Which gate does my flight leave from?
Who is my account manager?
When was my last oil change?
Any new messages?
Did anyone call me?
Do I owe anything?
Pay my electricity bill
Add milk to my shopping list
What's my membership number?
How much data have I used this month?
What grade did I get in chemistry?
Have I been charged twice?
How old am I?
What is my IP address?
Read me my last email
Have my tickets been shipped?
Who am I meeting tomorrow?
What did we talk about yesterday?
Do you remember my birthday?
I'd like to know where my luggage is.
Can you check whether my order has shipped?
Is my subscription still active?
Am I logged in?
How many sick days have I taken?
Why was my card declined?
Do I need a coat in Chicago?
How's the weather?
Temperature in Madrid
Are the ski slopes in Zermatt open?
What's the pollen like in Munich?
Is the surf good in Ericeira?
How many points does Real Madrid have?
Who scored in the derby?
Did Djokovic win his match?
Is the Liverpool game on?
What did Apple's stock close at?
Nvidia stock
How much is one euro in dollars?
100 usd in euros
Is the market up?
What's the interest rate on savings?
Is the A9 closed?
When's the next bus to the centre?
What's the wait at the airport?
Has the strike ended?
Is school cancelled?
Is Slack down?
What's open around here?
How busy is the gym?
How many coins do I have left?
When does my passport expire?
Was my application accepted?
Who emailed me this morning?
How many unread mails do I have?
What's my next class?
Which seat am I in?
Did I lock the front door?
Has my salary been paid?
What's my gate?
Is dinner ready?
What time is my haircut?
How much is my phone bill?
Where's the nearest pharmacy?
What's my manager's phone number?
Do I have enough money for rent?
How long is my commute?
Track package 1Z999AA1
Is anyone at the door?
Has my claim been approved?
What's my deductible?
When will my card arrive?
How much is left on my gift card?
Why was I charged twice?
What's the balance on my savings account?
Is my direct deposit in?
How many days of leave do I have?
Who approved my expense report?
When is my performance review?
What's the cafeteria serving today?
Is the printer on floor 3 working?
Is the VPN down?
What's my laptop's serial number?
When is my next lecture?
What did I get on the midterm?
Which room is my exam in?
How far did I run this morning?
What was my average heart rate last week?
Is the 8:15 to Paris on time?
Which terminal does my plane leave from?
Are there seats left on the evening train?
Is it going to snow in Boston?
How windy is it in Cape Town?
What's the temperature outside?
How's the pound doing against the dollar?
What's the spot price of silver?
How is Microsoft stock doing?
Did the Fed raise rates?
Who's winning the Monaco Grand Prix?
What's the score?
When do the Yankees play?
Any accidents on the ring road?
Is the museum open on Monday?
What's new in the world?
Is there a power cut in Leeds?
Are there any tickets left for the concert?
Where's my driver?
What's my wife's birthday?
How many unread notifications do I have?
Is my appointment still on?
Do I have class tomorrow?
What time is my train?
Restaurants near me
Is Heathrow busy?
What's the water temperature at Bondi Beach?
Is there a thunderstorm warning for Dallas?
What's the UV index?
How deep is the snow in Chamonix?
What are the tides at Dover?
Litecoin value
How much is Amazon stock?
What's the Nikkei at?
What's the euro worth?
Where is the Fed funds rate?
Is gold going up?
Who's playing on Sunday?
Did Barcelona beat Madrid?
How's the test match going?
Who got eliminated from MasterChef?
Who's top of the Bundesliga?
Is there a train strike?
Has flight BA117 landed?
How bad is the congestion on the bridge?
Is the lift at Oxford Circus fixed?
What's playing at the Odeon?
Who is the CEO of Twitter now?
What are people saying about the budget?
Is ChatGPT down?
Are the stores closed?
Which of my invoices are unpaid?
Is my table booked?
Show my last three payslips
How many kilometres did I cycle in June?
What medication am I taking?
When do I see the physio?
Have I paid the plumber?
What's my employee ID?
Am I on the waiting list?
What did my boss reply?
Who's coming to my party?
How many points do I have?
What's my password for Netflix?
Which courses am I taking?
Did my parcel arrive?
Where did I save the budget file?
Put eggs on my shopping list
Is it dark in Reykjavik?
Chance of rain in Seattle
How's the sea at Brighton?
What's the wind speed at the harbour?
Brent crude price
How much is a litre of petrol?
Euro to dollar
Is Meta up or down?
Shell share price
How did the FTSE finish?
Who's leading after the first round?
Did Spain qualify?
What's the score in the cricket?
When do Arsenal play?
Bundesliga standings
Is the tram running?
How long is the queue at passport control?
Has the 9:40 from Bristol arrived?
Is the Tate open?
Any delays at Gatwick?
Is Netflix down?
What's the latest on the wildfires?
Are there rooms available at the Ritz?
Who is trending?
Is my laptop under warranty?
What's my policy number?
When does my gym membership end?
Do I have a dentist appointment?
Has HR answered my request?
How much holiday have I got left?
What's my landlord's number?
Where's my suitcase?
Did Anna reply?
Why is my order late?
What did I have for breakfast?
Is my rent paid?
Am I booked on the morning flight?
Which platform is my train on?
Show me my calendar
How much did we sell last month?
"""

KEPT = """\
How do I track my package?
What affects the weather?
How do I change my password?
What is the price elasticity of demand?
Can my dog eat grapes?
Why is the weather in London so changeable?
What is the weather like in Kenya in August?
What is the best time of year to visit Peru?
How do weather forecasts work?
Who won the World Cup in 1966?
What is a good score in golf?
What is a credit score?
What was the score of the 1966 World Cup final?
What determines the price of gold?
Why did the price of oil fall in 2014?
How is the price of bitcoin determined?
How do exchange rates work?
What is a floating exchange rate?
What is a stock split?
How do I make chicken stock?
What is the temperature of the sun's surface?
At what temperature does water boil?
What is normal body temperature?
How can I capture network traffic with tcpdump?
Why do fake news stories spread?
Is Redis open source?
Are shops open on Sundays in Germany?
What do I need to open a bank account?
Do I need a visa for Japan?
Do I have to pay tax on a gift?
Do I have a cold or the flu?
Am I too old to learn the piano?
Am I allowed to park on a yellow line?
Why is my cat sneezing?
Why does my car shake when braking?
How do I know if my phone is unlocked?
How do I calculate my BMI?
What is my zodiac sign if I was born on 3 May?
How can I tell whether my email was hacked?
What should I name my cat?
How should I reply to my landlord's email?
Write a cover letter for my application to a bakery
Write an email to my boss asking for two days off
How long does a refund take on average?
Can my employer read my emails?
Can my landlord keep my deposit?
Should I pay my mortgage off early?
What happens if my flight is cancelled?
What are my rights if my flight is delayed?
Is my data safe in the cloud?
What is the best way to organise my inbox?
What is the difference between current and voltage?
How do I find my IP address on Linux?
How many players are in a football match?
What day of the week was 4 July 1776?
How long is a day on Venus?
Who won more Oscars, Hepburn or Streep?
Did the Romans win the battle of Cannae?
Does it snow in Morocco?
Is it cold on Mars?
How hot is lava?
How much is a pint in millilitres?
Which films won best picture in the 1970s?
What is the next step after pleading guilty?
Write a poem about my mother
Write a SQL query that lists orders with status open
Write a regex for an email address
Design a database schema for a weather app
Translate "Where is my passport?" into Italian
How do you say "what time is it" in Spanish?
Write a dialogue in which a customer asks where her order is
Create a Python script that fetches the bitcoin price
What documents do I need for my passport application?
What should I do with my old bank statements?
Give me tips to improve my LinkedIn profile
Explain how my immune system fights a virus
What is gold made of?
Who wrote the news in ancient Rome?
Is the set of integers closed under division?
Where is my appendix?
Is the bridge at Tacoma famous?
How do traffic lights work?
What is a rate limiter?
Which teams play in the Premier League?
What does a stock broker do?
Have humans been to Mars?
When did Rome fall?
Did Einstein win a Nobel Prize?
Is a tomato a fruit?
What does it mean when I dream of my teeth?
Is Python open source?
What is the capital gains tax rate in Spain?
Do I need a licence to fish in Norway?
What is the weather pattern called El Nino?
Who won the Nobel Prize in Physics in 1921?
Who is the leading expert on black holes?
What is the score of a perfect game in bowling?
Is the Earth's core hot?
Is it cold in Iceland in winter?
Are bank holidays paid?
What is my liability if a guest is injured?
What does my car insurance need to cover?
Is my password strong enough if it has eight letters?
Does my cat need a companion?
Can I deduct my phone bill from my taxes?
Is the Great Wall visible from orbit?
What is happening inside a battery while it charges?
What is the price of a human life according to economists?
When is the best time to plant tomatoes?
When do bears hibernate?
When does a contract become binding?
How long is a term of a US senator?
Did Vikings wear horned helmets?
Did the dinosaurs have feathers?
Have I the right to remain silent?
Am I an introvert or an extrovert?
Am I responsible for my brother's debts?
What is the news cycle?
What are gas giants?
What is gold leaf?
How much is too much coffee?
How many days are in a leap year?
What movies are in the public domain?
Is the set of primes infinite?
What is the latest stage of mitosis?
Set up a Kubernetes cluster on bare metal
Add a column to a table in SQL
Book recommendations on the French Revolution
Remember the Alamo: what does it refer to?
Play on words with "thyme"
What is the traffic in a network called?
Who is ahead in chess if White has an extra rook?
Check my grammar: him go to school
Who was my lady in Shakespeare's sonnets?
What is it called when I repeat my words?
What is a deductible in insurance?
How do I claim travel expenses?
How can I see my last transactions in the app?
What does a serial number tell you?
What is a resting heart rate?
How far is a marathon?
Why do trains run late in snow?
What is the spot price in economics?
How does the Fed set interest rates?
Who holds the record for most Grand Prix wins?
Can I get a refund on a gift card under EU law?
What is the tallest building in Leeds?
What should I wear to a wedding?
How many days of leave does the law give in France?
What is my carbon footprint made of?
Do I need a lawyer to write a will?
Is my contract valid if it was never signed?
Is my baby's fever dangerous?
Does my dog understand me?
Did Shakespeare write all his plays?
Did the Titanic have enough lifeboats?
What is the meaning of the song Yesterday?
What are the ingredients of pesto?
Who is the author of The Price of Salt?
What is a weather vane?
Is the speed of light constant?
Is the earth still cooling?
Are bats blind?
Are there any prime numbers between 90 and 96?
When does water expand?
What time signature is a waltz in?
How long is a flight from Paris to Tokyo?
How much does an elephant weigh?
How many calories are in an egg?
What is on the flag of Mexico?
Which metals are magnetic?
Write a thank-you note to my teacher
Draft a reply to a customer whose order is late
Rank these from oldest to newest: iron, bronze, stone
Summarise the causes of the Great Depression
Build a to-do list app in React
Add two fractions with different denominators
Show that the square root of 2 is irrational
Explain the offside rule
What do I do if my card is stolen?
What is a thunderstorm?
How are tides caused?
Why is UV light harmful?
How does one read a stock chart?
What backs the value of the euro?
Who invented the index fund?
What is the role of a CEO?
How do airports handle luggage?
Why do lifts have mirrors?
How is a train timetable made?
What is a strike in bowling?
Which countries border the North Sea?
Who played James Bond in Goldfinger?
Who got the first Oscar for best actress?
What is a test match in cricket?
What makes a phone waterproof?
What is an invoice number for?
How do I write a payslip in Excel?
What medication is used for gout?
When should I see a doctor about a cough?
How do I get off a waiting list politely?
What did Plato say about democracy?
How many points is a touchdown?
Which courses do nurses take at university?
What is a budget deficit?
Is my landlord allowed to enter without notice?
Is my cough contagious after a week?
Should I put eggs in the fridge?
Can I use my phone on a plane?
Do I need yeast for soda bread?
Do I capitalise seasons?
Am I a millennial if I was born in 1995?
Where do I put the apostrophe in "its"?
What is my type if both parents have blood type O?
Who is my nearest ancestor shared with chimpanzees?
Did Beethoven go deaf?
Did the Beatles ever play in Japan?
Has anyone sailed round the world alone?
Is there life on Europa?
Is there a largest prime?
Are the Alps older than the Andes?
What is the current in a series circuit?
Give me a recipe for lentil soup
Write a haiku about traffic
Compare renting and buying a home
Why does it get dark early in winter?
What causes wind?
How is petrol refined?
What is a share?
Who founded Shell?
How does a tram get its power?
What is passport control?
Who painted the Night Watch?
What is a wildfire?
What does a warranty cover?
What is an insurance policy?
Is it legal to record a phone call?
Is bread vegan?
Is the moon a planet?
Is zero even?
Are mushrooms plants?
Are there snakes in Ireland?
Did Napoleon lose at Waterloo?
Did people live in caves?
Has anyone survived a fall from a plane?
Do I need a degree to become a pilot?
Do I have to register a drone?
Am I a resident for tax if I stay half a year?
Where do I report a lost suitcase?
Where can I learn Welsh?
When do I use a semicolon?
What do I say at a funeral?
What is my body doing when I hiccup?
Why is my bread dense?
How much flour do I need for a loaf?
How many feet are in a mile?
How long do cats live?
What time do owls hunt?
What is the first law of motion?
What is the Dow Jones?
Who is the main character in Emma?
Who won the Battle of Hastings?
Write a limerick about a late train
Plan a birthday party for a child
Turn this list into a table: apples, pears
What is the best way to store apples now?
"""
