"""How other languages, and emoji, name what policies often guard. Small on purpose: a policy adds its own by ``words``.

German, French, Spanish, Italian, Portuguese, Dutch, Polish, Russian, Turkish, Arabic, Hindi, Chinese, Japanese, Korean.
Words that mean something harmless in English are left out (French has "crane" for a skull).
"""

from __future__ import annotations

LEXICON = {
    "cigarette": (
        "zigarette|cigarrillo|sigaretta|cigarro|sigaret|papieros|"
        "сигарета|сигарету|sigara|سيجارة|सिगरेट|香烟|香煙|タバコ|煙草|담배|🚬"
    ),
    "pistol": ("pistole|pistolet|pistola|pistool|пистолет|tabanca|مسدس|पिस्तौल|手枪|手槍|ピストル|拳銃|권총|🔫"),
    "gun": (
        "schusswaffe|arme à feu|arma de fuego|arma da fuoco|arma de fogo|vuurwapen|огнестрельное оружие|ateşli silah"
    ),
    "bomb": "bombe|bomba|bom|бомба|бомбу|قنبلة|बम|炸弹|炸彈|爆弾|폭탄|💣",
    "beer": ("bier|bière|cerveza|birra|cerveja|piwo|пиво|bira|بيرة|बीयर|啤酒|ビール|맥주|🍺|🍻"),
    "wine": ("wein|vin rouge|vino|vinho|wijn|wino|вино|şarap|نبيذ|शराब|葡萄酒|ワイン|와인|🍷"),
    "vodka": "wodka|водка|водку|votka|فودكا|वोदका|伏特加|ウォッカ|보드카",
    "whisky": "виски|viski|ويسكي|व्हिस्की|威士忌|ウイスキー|위스키|🥃",
    "cocktail": "cóctel|коктейль|kokteyl|كوكتيل|कॉकटेल|鸡尾酒|カクテル|칵테일|🍸|🍹",
    "alcohol": "alkohol|alcool|алкоголь|alkol|كحول|酒精|アルコール|알코올",
    "skull": (
        "totenkopf|schädel|tête de mort|calavera|teschio|caveira|"
        "schedel|doodskop|czaszka|череп|kafatası|kurukafa|جمجمة|"
        "खोपड़ी|骷髅|骷髏|頭蓋骨|ドクロ|해골|💀|☠"
    ),
    "knife": ("messer|couteau|cuchillo|coltello|faca|nóż|нож|bıçak|سكين|चाकू|小刀|刀子|ナイフ|칼|🔪"),
    "syringe": (
        "spritze|seringue|jeringa|jeringuilla|siringa|seringa|"
        "injectiespuit|strzykawka|шприц|şırınga|محقنة|सिरिंज|注射器|"
        "주사기|💉"
    ),
    "pill": (
        "tablette|pilule|pastilla|píldora|pillola|pílula|"
        "comprimido|tabletka|pigułka|таблетка|таблетку|hap|"
        "حبة دواء|गोली|药片|藥片|錠剤|알약|💊"
    ),
    "dagger": ("dolch|poignard|daga|puñal|pugnale|adaga|punhal|dolk|sztylet|кинжал|hançer|خنجر|खंजर|匕首|短剣|단검|🗡"),
    "sword": ("schwert|épée|espada|spada|zwaard|miecz|меч|kılıç|سيف|तलवार|宝剑|剣|⚔"),
    "coffin": ("sarg|cercueil|ataúd|féretro|bara|caixão|doodskist|trumna|гроб|tabut|تابوت|ताबूत|棺材|棺|⚰"),
    "spider": ("spinne|araignée|araña|ragno|aranha|pająk|паук|örümcek|عنكبوت|मकड़ी|蜘蛛|クモ|거미|🕷"),
    "snake": ("schlange|serpiente|serpente|wąż|змея|yılan|ثعبان|साँप|蛇|ヘビ|뱀|🐍"),
    "blood": ("blut|sang humain|sangre|sangue|bloed|krew|кровь|kan lekesi|دماء|खून|鲜血|血液|피투성이|🩸"),
    "weapon": ("waffe|arme blanche|arma|wapen|broń|оружие|silah|سلاح|हथियार|武器|무기"),
    "nude": ("nackt|femme nue|desnuda|desnudo|nuda|nua|naakt|naga|голая|голый|çıplak|عارية|नंगा|裸体|裸體|ヌード|나체"),
    "drug": "droge|drogue|droga|наркотик|uyuşturucu|مخدرات|毒品|麻薬|마약",
}


def translations(phrase: str) -> list[str]:
    """What a phrase is in other languages; of one of several words, what its last word is."""
    return LEXICON.get(phrase.lower().split()[-1], "").split("|") if phrase.split() else []
