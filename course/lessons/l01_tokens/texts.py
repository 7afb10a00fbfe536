"""Texts to count tokens on: one notice in fourteen languages, and five kinds of text that are no prose.

The notice was written for this course and says the same in every language, so the counts compare.
"""

from __future__ import annotations

import random

NOTICE = {
    "English": "The library is open every day from nine to six. Please return your books on time so that others can "
    "borrow them. Children read free of charge.",
    "Spanish": "La biblioteca abre todos los días de nueve a seis. Por favor, devuelva los libros a tiempo para que "
    "otras personas puedan llevárselos. Los niños leen gratis.",
    "French": "La bibliothèque est ouverte tous les jours de neuf à dix-huit heures. Merci de rendre vos livres à "
    "temps pour que d'autres puissent les emprunter. Les enfants lisent gratuitement.",
    "German": "Die Bibliothek ist jeden Tag von neun bis achtzehn Uhr geöffnet. Bitte geben Sie Ihre Bücher "
    "rechtzeitig zurück, damit andere sie ausleihen können. Kinder lesen kostenlos.",
    "Polish": "Biblioteka jest otwarta codziennie od dziewiątej do osiemnastej. Prosimy zwracać książki na czas, aby "
    "mogli je wypożyczyć inni. Dzieci czytają za darmo.",
    "Turkish": "Kütüphane her gün dokuzdan altıya kadar açıktır. Başkaları da ödünç alabilsin diye lütfen "
    "kitaplarınızı zamanında geri verin. Çocuklar ücretsiz okur.",
    "Vietnamese": "Thư viện mở cửa hằng ngày từ chín giờ đến mười tám giờ. Xin vui lòng trả sách đúng hạn để người "
    "khác có thể mượn. Trẻ em đọc miễn phí.",
    "Russian": "Библиотека открыта каждый день с девяти до шести. Пожалуйста, возвращайте книги вовремя, чтобы их "
    "могли взять другие. Дети читают бесплатно.",
    "Greek": "Η βιβλιοθήκη είναι ανοιχτή κάθε μέρα από τις εννέα έως τις έξι. Παρακαλούμε επιστρέφετε τα βιβλία "
    "σας εγκαίρως, ώστε να μπορούν να τα δανειστούν και άλλοι. Τα παιδιά διαβάζουν δωρεάν.",
    "Arabic": "المكتبة مفتوحة كل يوم من التاسعة إلى السادسة. يرجى إعادة الكتب في موعدها حتى يتمكن الآخرون من "
    "استعارتها. القراءة مجانية للأطفال.",
    "Hindi": "पुस्तकालय हर दिन नौ बजे से छह बजे तक खुला रहता है। कृपया अपनी किताबें समय पर लौटाएँ ताकि दूसरे लोग भी "
    "उन्हें ले सकें। बच्चे निःशुल्क पढ़ सकते हैं।",
    "Chinese": "图书馆每天九点到六点开放。请按时归还图书，以便其他人借阅。儿童免费阅读。",
    "Japanese": "図書館は毎日九時から六時まで開いています。ほかの方も借りられるように、本は期限までにお返しください。"
    "子どもは無料で読めます。",
    "Korean": "도서관은 매일 아홉 시부터 여섯 시까지 문을 엽니다. 다른 사람도 빌릴 수 있도록 책을 제때 돌려주세요. "
    "어린이는 무료로 읽을 수 있습니다.",
}

NOT_PROSE = {
    "Python": "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "SQL": "SELECT city, COUNT(*) FROM airports\nWHERE country = 'Kenya'\nGROUP BY city ORDER BY COUNT(*) DESC;\n",
    "JSON": '{"id": 48213, "name": "Amara Okafor", "active": true, "tags": ["new", "trial"], "score": 0.8731}\n',
    "log line": "2026-03-14T09:26:53.589Z worker-7 GET /v1/items/3f2b8c1e-9d47-4a6b 200 8213 bytes 41.7 ms\n",
    "number table": "1031.25, 884.10, 1207.93\n998.40, 1150.06, 1043.71\n1310.55, 902.18, 1127.64\n",
}

FAMILY = "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}"
"""An emoji of three code points: woman, joiner, computer."""

PEOPLE = ("Okafor", "Lindqvist", "Tanaka", "Moreau", "Castillo", "Novak", "Haddad", "Brandt", "Ferreira", "Iyer")
TASKS = ("checks the boilers", "orders the filters", "signs the invoices", "trains the night shift", "tests the alarms")
PLACES = ("the north depot", "hall seven", "the river station", "the old workshop", "the training centre")


def handbook(facts: int, seed: int = 0) -> tuple[str, list[tuple[int, int]]]:
    """(a made-up company handbook, where each of its facts stands as (start, end) in characters).

    A fact is one sentence; what it says is of use only whole: who does what, where, on which day, under which number.
    """
    random_choice = random.Random(seed)
    text, spans = "", []
    for number in range(1, facts + 1):
        who, what, where = (random_choice.choice(words) for words in (PEOPLE, TASKS, PLACES))
        day, phone = random_choice.randint(1, 28), random_choice.randint(2000, 9999)
        fact = f"On day {day} of each month {who} {what} at {where}; the number to call is {phone}."
        start = len(text)
        text += fact
        spans.append((start, len(text)))
        text += " " if number % 5 else "\n\n"
    return text, spans


SHOP_TALK = (
    ("How often should I oil the chain?", "About every 200 kilometres, and always after riding in the rain."),
    (
        "Which pressure for 28 mm tyres?",
        "Between 5 and 6 bar. Heavier riders choose the upper end, lighter ones the lower.",
    ),
    (
        "My brakes squeal. Is that bad?",
        "It is mostly dirt on the rim. Clean it with alcohol; if the noise stays, come by.",
    ),
    ("Do you sell second-hand bikes?", "Yes, on Saturdays. Each one is checked and has a guarantee of six months."),
    (
        "Can I bring the bike on Sunday?",
        "We are closed on Sundays. On weekdays the workshop is open from eight to six.",
    ),
    ("What does a full service cost?", "A full service is 89 euros, parts not included. It takes two working days."),
    ("Is carbon worth the money?", "For racing perhaps. For the way to work, aluminium is cheaper and forgives more."),
    (
        "How do I store it in winter?",
        "Dry, with the tyres off the ground, and the battery at half charge and above zero.",
    ),
    ("Which lights are allowed?", "Any with an approval mark. The front one must be white, the rear one red."),
    ("My saddle is too hard.", "Give it two weeks. If it still hurts, we measure you and change it free of charge."),
)

NAMES = ("Anna", "Daniel", "Emma", "Hannah", "Laura", "Lucas", "Maria", "Oliver", "Peter", "Victor")
"""First names that are one SmolLM2 token each, so that one forward pass compares them all."""


def shop_conversation(name: str, exchanges: int = len(SHOP_TALK)) -> list[dict[str, str]]:
    """A chat with a bicycle shop whose first message holds the customer's name, and whose last asks for it."""
    rule = f"You are the assistant of a bicycle shop. The customer's name is {name}."
    messages = [{"role": "system", "content": rule}]
    for question, answer in SHOP_TALK[:exchanges]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": "By the way, what is my name?"}]
