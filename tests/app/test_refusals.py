from __future__ import annotations

import time

import pytest

from app.cache.refusals import refused

DECLINED = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I cannot assist with this request.",
    "Sorry, I am unable to provide medical advice.",
    "As an AI language model, I do not have access to live data.",
    "Unfortunately, I am not able to discuss this topic.",
    "I apologize, but I won't create that.",
    "  I must decline to answer.",
    "I'm sorry, but that's not something I can help with.",
    "I'm not comfortable helping with that.",
    "As a language model I cannot provide this.",
    "I'm just an AI and can't help with that.",
    "I'm sorry, but I can't do that.",
    "Sorry, I can't help you with this.",
    "I can't assist with that request.",
    "My apologies, but I'm not able to share that information.",
    "I'm afraid I can't do that.",
    "I'm afraid that's beyond what I can do.",
    "That's something I can't help with.",
    "I'd rather not discuss that.",
    "I'm unable to help with this.",
    "I am only a chatbot, so I cannot give legal advice.",
    "We're sorry, but we are unable to process this request.",
    "I don't feel comfortable writing that.",
    "I won't be able to help with that.",
    "I have to decline this request.",
    "I'm not able to engage with that.",
    "I understand your frustration, but I can't help you hack an account.",
    "I regret that I cannot comply with this request.",
    "This is not something I'm able to do.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "Lo siento, no puedo proporcionar esa información.",
    "No puedo ayudar con esa solicitud.",
    "Como modelo de lenguaje, no puedo responder a eso.",
    "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "Es tut mir leid, ich kann Ihnen dabei nicht helfen.",
    "Tut mir leid, das kann ich nicht beantworten.",
    "Leider kann ich diese Anfrage nicht beantworten.",
    "Als KI kann ich das nicht tun.",
    "Ich kann Ihnen dabei leider nicht weiterhelfen.",
    "Je suis désolé, mais je ne peux pas vous aider avec cela.",
    "Désolé, je ne peux pas répondre à cette demande.",
    "En tant qu'IA, je ne suis pas en mesure de fournir cette information.",
    "Je ne peux pas t'aider à faire ça.",
    "Mi dispiace, ma non posso aiutarti con questo.",
    "Non posso fornire queste informazioni.",
    "Purtroppo non sono in grado di rispondere.",
    "Desculpe, mas não posso ajudar com isso.",
    "Sinto muito, mas não consigo fornecer essa informação.",
    "Infelizmente, não posso responder a essa pergunta.",
    "Não posso ajudar com esse pedido.",
    "I can't provide instructions for making explosives.",
    "I cannot in good conscience help with this.",
    "Sorry, but I can't continue this conversation.",
    "I cannot and will not provide that.",
    "I'm sorry, I'm not able to browse the internet.",
    "I can't browse the web or open links.",
    "I don't have the ability to see your calendar.",
    "I don't have access to your account.",
    "As an AI, I don't have personal opinions.",
    "As an AI assistant, I'm not able to make phone calls.",
    "I'm really sorry, but I can't give out passwords.",
    "Sorry, I can't answer that.",
    "I'm unable to view images.",
    "I cannot fulfill your request.",
    "I can’t engage in that role-play.",
    "Unfortunately, that's outside the scope of what I can do.",
    "I'm programmed to be a harmless assistant and cannot answer that.",
    "That goes against my guidelines.",
    "This request violates our policy, so I can't help.",
    "No, I can't help with that.",
    "Lo siento, pero eso no es algo en lo que pueda ayudar.",
    "Me temo que no puedo hacer eso.",
    "Lamento no poder ayudarte con esto.",
    "Entschuldigung, ich darf dazu keine Auskunft geben.",
    "Das ist etwas, wobei ich nicht helfen kann.",
    "Ich bin nur ein KI-Modell und kann das nicht beantworten.",
    "Désolée, je ne suis pas autorisé à répondre.",
    "Je suis navré, je ne peux pas faire cela.",
    "Mi spiace, non posso aiutarla.",
    "Sono solo un'IA e non posso farlo.",
    "Lamento, mas não posso ajudar com isso.",
    "Sou apenas uma IA e não posso fornecer isso.",
    "I can't help with that.\n\nIs there something else you would like to know?",
]
ANSWERED = [
    "Sorry is the word for it: sorrow and sorry share their first letters.",
    "I can help with that. First, loosen the screws.",
    "You cannot provide two keys. Remove one of them.",
    'Write: "I am sorry, but I can\'t help this week."',
    "I do not know of any. The list ends there.",
    "I'm sorry to hear that. Here is what you can do: call the bank and block the card.",
    "I can't recommend it highly enough: the food is superb.",
    "I can't wait to help you plan this trip! Day 1: arrive in Rome.",
    '```python\ndef refuse():\n    raise ValueError("I cannot help with that")',
    "```",
    "I'm sorry for your loss. Writing a eulogy can help: begin with a memory.",
    "I do not have a favourite, but many people give the first prize to Bach.",
    "Unfortunately, the bridge closed in 1990. It was replaced by a tunnel.",
    "As an AI pioneer, Alan Turing asked whether machines can think.",
    "As a model of the atom, Bohr's picture cannot explain spectra.",
    "I'm an AI, and I can help you with that: start by sorting the list.",
    "I'm an assistant, so ask me anything. Water boils at 100 °C.",
    "Sorry for the confusion! The answer is 42.",
    "I apologize for the mistake. The corrected function is: return a + b",
    "That's not something to worry about. Mild redness fades within days.",
    "That is something I can explain: tides follow the moon.",
    "It's beyond the scope of a kettle, but a pan does it.",
    "I won't lie: it takes practice. Give it ten minutes a day.",
    "I will not go gentle into that good night, says a well-known reading.",
    'I would write "I don\'t have any" here.',
    "I don't have to provide a proof, since the theorem is well known: it is Euclid's.",
    "I cannot tell a lie, said Washington, and a cherry tree stood behind him to support the tale.",
    "No puedo vivir sin ti es una canción de Los Ronaldos.",
    'Lo siento significa "I am sorry" en inglés.',
    "No puedes dividir entre cero, porque no hay un número que dé ese resultado.",
    "Leider regnet es in Hamburg oft. Ein Schirm kann helfen.",
    "Ich kann nicht anders, soll Luther gesagt haben.",
    "Je ne regrette rien est une chanson d'Édith Piaf.",
    "Non posso, volevo e dovrei sono forme di verbi modali.",
    "Desculpe é uma forma educada de pedir perdão.",
    "Ich bin Berliner, sagte Kennedy 1963.",
    "We can't say for sure, but most historians support the date of 753 BC.",
    "I can't see the image, but from your description: it is a heron.",
    "That is not something I know much about, but in short: it is a moss.",
    "I can't run programs, but this prints the sum:\n```python\nprint(1 + 2)\n```",
    "I can't provide a diagnosis, but these are the usual causes. " + "Rest helps many of them. " * 60,
]


@pytest.mark.parametrize("text", DECLINED)
def test_an_answer_that_declines_at_once_is_a_refusal_in_six_languages(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize("text", ANSWERED)
def test_an_answer_that_apologises_or_cannot_do_something_else_is_none(text: str) -> None:
    assert not refused(text)


@pytest.mark.parametrize("run", ["I am ", "as a ", "sorry ", "I can't ", "leider kann ich nicht ", "a", " ", "no, "])
def test_a_long_run_of_anything_takes_no_time(run: str) -> None:
    started = time.process_time()
    for _ in range(20):
        refused(run * (1000 // len(run)))
    assert time.process_time() - started < 1
