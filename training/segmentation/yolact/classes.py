"""Names of the classes of the published weights: files hold numbers only."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


COCO = _names(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
"""The 80 classes of COCO, in the order of their ids."""
PASCAL = _names(
    "aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,motorbike,person,pottedplant,sheep,"
    "sofa,train,tvmonitor"
)
"""The 20 classes of Pascal VOC."""
YOUTUBE_VIS = _names(
    "person,giant_panda,lizard,parrot,skateboard,sedan,ape,dog,snake,monkey,hand,rabbit,duck,cat,cow,fish,train,horse,"
    "turtle,bear,motorbike,giraffe,leopard,fox,deer,owl,surfboard,airplane,truck,zebra,tiger,elephant,snowboard,boat,"
    "shark,mouse,frog,eagle,earless_seal,tennis_racket"
)
"""The 40 classes of YouTube-VIS 2019."""
