"""Common English words of 4 to 12 letters, for tasks about the letters of a word."""

from __future__ import annotations

_TEXT = """
ability absence academy accident account address adventure afternoon agreement airport alphabet amazing ambition
analysis ancient animal announce anxiety apartment appear apple application appointment approach apron architect
argument arrangement arrow artist asleep assembly assistant athlete attention audience author autumn avenue balance
balloon banana bandage barrel basement basket battery beautiful bedroom beginning behavior believe bicycle biscuit
blanket blossom bookcase bottle bottom boundary bracelet bread breakfast breeze bridge brilliant broccoli brother
bubble bucket building bullet business butter butterfly button cabbage cabinet calendar camera campaign candidate
candle canyon captain caravan career carpet carriage carrot castle category cathedral cattle ceiling celebrate
cement century ceremony certain challenge champion channel chapter character cheese cherry chicken children chimney
chocolate church cinema circle citizen classroom climate clothes cloud coconut coffee collection college colony
comfort committee common community company compass complete computer concert condition connection construction
contain continent conversation cookie copper corner correct cotton council country courage cousin cradle creature
cricket crocodile crystal cucumber culture cupboard curtain cushion customer danger daughter decade december
decision defend degree delicious delivery department desert design desk dessert detail develop diamond dictionary
difference difficult dinner dinosaur direction disappear discovery discussion distance district doctor dollar
dolphin donkey double dragon drawer dream driver drummer eagle earthquake eclipse economy editor education effort
eleven elephant elevator embassy emergency emotion employee energy engine engineer enough entrance envelope equal
error escape estimate evening evidence examination example excellent exchange exercise expedition experience
explosion express extension eyebrow fabric factory failure familiar family fantasy farmer fashion feather february
ferry festival fifteen finger fireplace fisherman flannel flashlight flower follow football forest forget fortune
fountain fragment freedom friend frozen furniture future galaxy gallery garage garden garlic gather general
generation gentle geography giraffe glass glitter glossary goddess goose government grammar grandmother grapefruit
grass grateful gravity grocery guitar habit hallway hammer handle happiness harbor harmony harvest headache health
heart heaven hello helicopter history holiday hollow honey horizon horse hospital hotel hundred hunger husband
iceberg idea illness imagine immediate important improve incident include increase independent industry information
ingredient innocent insect instrument insurance intelligent interest introduce invention island jacket january
jewel journal journey judge jungle justice kangaroo kettle keyboard kingdom kitchen kitten knee knowledge ladder
language lantern laptop laughter laundry lawyer leader leather lecture lemon lesson letter level liberty library
lightning limit liquid literature little lizard lobster location lottery luggage lumber machine magazine magnet
mammal manager marble market marriage mathematics meadow measure medicine melody member memory message metal
middle midnight military million mineral minister minute mirror missing mission mistake mixture moment monkey
monster monument morning mosquito motion mountain movement muscle museum mushroom music mystery narrow nation
nature necessary necklace needle neighbor network noodle normal northern notebook notice november number object
ocean october office onion opening opera opinion opposite orange orchestra ordinary original otter outdoor oxygen
package paddle painting palace pancake panel paper parade paragraph parallel parent parliament parrot passage
passenger passport patience pattern peanut pebble pencil penguin people pepper perfect performance permission
person philosophy photograph pianist picnic picture pillow pineapple pioneer planet plastic platform pleasure
pocket poetry pollution popular population portrait position possession possible potato poverty powder practice
president pressure prince printer prisoner problem process professor program promise property protect province
puddle pumpkin puppet purple puzzle pyramid quality quarter question quiet rabbit railroad rainbow raspberry
recipe recommend referee reflection refrigerator region religion remember report republic rescue restaurant
ribbon river rocket roof rubber saddle sailor salad sandwich satellite saucer scarecrow scatter school science
scissors season second secret secretary sentence september settlement seven shadow shelter shoulder shower silence
silver singer skeleton sleeve slipper smooth snowflake soccer society soldier spaghetti special spinach spirit
spoon squirrel stadium staircase station steel stomach storage story strawberry street structure student success
sudden suggest suitcase summer sunflower supper surface surprise swallow sweater symbol system tattoo teacher
telephone television temperature temple tennis terrible territory theater thermometer thirteen thousand thread
thunder ticket tobacco together tomato tomorrow tooth tornado tourist traffic treasure triangle trouble trumpet
tunnel turtle twelve twenty umbrella uncle underground university unusual useless vacation valley vanilla vegetable
vehicle velvet victory village vinegar violin visitor vocabulary volcano volume voyage waffle wagon wallet walnut
warrior watermelon weather wedding welcome whisper whistle willow window winter wisdom witness wooden worker
yellow yesterday zebra zipper
"""

WORDS: tuple[str, ...] = tuple(_TEXT.split())
