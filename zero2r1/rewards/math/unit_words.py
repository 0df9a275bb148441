"""The words of ``units.py``: units and their sizes, multipliers, counters, and words behind a number that are no unit."""

from __future__ import annotations

from fractions import Fraction

Unit = tuple[str, Fraction]
"""(dimension, size in that dimension's base unit)."""

_UNITS = """
length 1 m meter meters metre metres 米 公尺 미터
length 1000 km kilometer kilometers kilometre kilometres 千米 公里 킬로미터
length 0.1 dm decimeter decimeters 分米
length 0.01 cm centimeter centimeters centimetre centimetres 厘米 公分 센티미터
length 0.001 mm millimeter millimeters millimetre millimetres 毫米 밀리미터
length 0.3048 ft foot feet 英尺
length 0.0254 in inch inches 英寸
length 0.9144 yd yard yards
length 1609.344 mi mile miles 英里 마일
mass 1 g gram grams 克 그램
mass 1000 kg kilogram kilograms kilo kilos 千克 公斤 킬로그램
mass 0.001 mg milligram milligrams 毫克
mass 1000000 tonne tonnes 吨 톤
mass 453.59237 lb lbs pound pounds 磅
mass 28.349523125 oz ounce ounces 盎司
time 1 s sec secs second seconds 秒 秒钟 초
time 60 min mins minute minutes 分钟 분
time 3600 h hr hrs hour hours 小时 时 시간 시
time 86400 day days 天 日 일
time 604800 week weeks 周 星期 주
month 1 month months 个月 月 개월 달
month 12 year years yr yrs 年 岁 년 살 세
volume 1 l liter liters litre litres 升 리터
volume 0.001 ml milliliter milliliters millilitre millilitres 毫升 밀리리터
cup 1 cup cups
gallon 1 gallon gallons gal
dollar 1 $ dollar dollars usd buck bucks 美元 달러
dollar 0.01 cent cents ¢ 美分
euro 1 euro euros eur 欧元 유로
won 1 won krw 원 韩元
yuan 1 yuan rmb cny 元 块 块钱 人民币 위안
yuan 0.1 角
yen 1 yen jpy 円 日元 엔
sterling 1 gbp sterling
angle 1 degree degrees 度 도
radian 1 rad rads radian radians
celsius 1 celsius ℃
fahrenheit 1 fahrenheit
kelvin 1 k kelvin kelvins
force 1 n newton newtons
energy 1 j joule joules
power 1 w watt watts
voltage 1 v volt volts
current 1 amp amps ampere amperes
pressure 1 pa pascal pascals 帕
pressure 100 百帕
frequency 1 hz hertz
units 1 unit units
length/time 0.44704 mph
length/time 5/18 kmh kph
"""


def _table() -> dict[str, Unit]:
    table: dict[str, Unit] = {}
    for line in _UNITS.split("\n"):
        if line:
            dimension, size, *names = line.split()
            table |= dict.fromkeys(names, (dimension, Fraction(size)))
    return table


KNOWN = _table()
KNOWN |= {f"{name} old": KNOWN[name] for name in ("day", "days", "week", "weeks", "month", "months", "year", "years")}
GLUED = frozenset(name for name in KNOWN if len(name) > 1) | {"m", "g", "s", "h", "l"}
"""Units that may stand right behind a digit."""
MULTIPLIERS = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8, "십": 10, "백": 100, "천": 1000, "만": 10**4, "억": 10**8,
}  # fmt: skip
PLURALS = frozenset(
    (
        "people persons men women children feet teeth mice geese sheep fish deer dice pence bus classes glasses dresses boxes bacteria "
        "data cacti fungi species series oxen"
    ).split()
)
"""Nouns that are plural without looking it, or in spite of how they end."""
NOT_UNITS = frozenset(
    (
        "and or not nor but to than between from least most more less over under about approximately around exactly almost nearly plus "
        "minus times negative positive half halves third thirds quarter quarters fourths fifths sixths sevenths eighths ninths tenths "
        "elevenths twelfths hundredths thousandths millionths tens ones zeros zeroes twos threes fours fives sixes sevens eights nines "
        "dozens scores score gross quadrillion quadrillions lakh lakhs crore crores double twice squared cubed is are equals equal if "
        "when maybe perhaps either both no none zero one two three four five six seven eight nine ten eleven twelve pi inf infinity "
        "infty union cup mod sqrt below above deg sin cos tan log ln exp point points off wrong false incorrect divided by so ish "
        "approx max min up at odd something guess guesses estimates unsure some few was always perhaps unless versus vs minuses pluses "
        "squares cubes roots powers logs factorials alphas betas thetas lambdas this thus its has does lies equals means guesses "
        "unknowns variables others less plus radius axis basis hypothesis bonus"
    ).split()
)
"""Plural in form or known otherwise, and yet no unit: they change the number, deny it or hedge it."""
CHINESE_COUNTERS = frozenset(
    "个 只 条 本 张 件 次 人 名 位 头 匹 棵 朵 颗 粒 片 瓶 杯 盒 箱 包 袋 碗 盘 双 套 组 排 行 列 层 页 题 道 辆 台 支 枝 根 间 座 "
    "家 所 册 枚 枪 束 串 筐 "
    "桶 罐 份 顿 场 首 篇 句 字 票 圈 步 节 班 桌 把 艘 架 户 株 段 面 扇 盏 顶 块 升 分 元 角 天 岁 年 页 米".split()
)
KOREAN_COUNTERS = frozenset(
    "개 명 마리 권 장 대 번 살 송이 그루 자루 병 잔 켤레 벌 채 척 통 상자 봉지 사람 가지 쪽 페이지 점 곳 문제 팀 반 줄 묶음 조각 "
    "봉 판 알 단 걸음 바퀴 회".split()
)
FORBIDDEN_IN_NOUNS = frozenset("分之的平方除乘加减大概错是不非没或和约多余左右上下以半倍间到至十百千万亿零一二三四五六七八九两几根次负正每")
"""Characters that make a noun behind a Chinese counter suspect."""
