"""What other engines need for the same models: figures from published results and from our own runs of them.

Instructions and arenas of TFLite Micro with CMSIS-NN and of TinyEngine were measured like ours: QEMU, icount, the same
files, int8 (TFLite Micro 90b983c2, CMSIS-NN 4ab83cc3 at -Ofast with inline assembly requantization, TinyEngine
47bb283c). TinyEngine's outputs differ from LiteRT's.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rival:
    """The best measured figures for one model: instructions of one inference, bytes of arena, and what is asked of us.

    m4, m55          instructions; arena  bytes, un-patched
    wanted           our own limits for the same three
    """

    m4: int
    m55: int
    arena: int
    wanted: tuple[int, int, int]
    engine: str = "TFLite Micro, CMSIS-NN"


RIVALS = {
    "ResNet8 (IC)": Rival(28_618_981, 4_812_876, 54_996, (17_000_000, 2_600_000, 49_152)),
    "MobileNetV1-0.25 (VWW)": Rival(23_431_826, 6_435_397, 100_708, (12_500_000, 3_200_000, 55_296)),
    "DS-CNN (KWS)": Rival(7_420_294, 1_786_555, 22_820, (4_200_000, 950_000, 16_000)),
    "Autoencoder (AD)": Rival(573_830, 285_998, 2_580, (420_000, 100_000, 768)),
    "MCUNet VWW": Rival(
        34_750_000, 11_930_882, 93_992, (26_000_000, 6_000_000, 92_000), "TinyEngine (M4, arena), CMSIS-NN (M55)"
    ),
    "MobileNetV2-0.35 144": Rival(94_430_261, 26_518_455, 378_804, (52_000_000, 13_000_000, 311_040)),
}


@dataclass(frozen=True)
class PatchRival:
    """A patched schedule of another engine: bytes of SRAM, image included, and multiply-accumulates added."""

    sram: int
    extra: float
    engine: str


PATCHED = {
    "MobileNetV2-0.35 144": PatchRival(77_760 + 62_208, 0.154, "3 x 3 patches, halo recomputed (estimated)"),
    "MCUNet VWW": PatchRival(62_352 + 19_200, 0.048, "TinyEngine, 2 x 2 patches"),
}
