"""Every schedule string of the paper (sections 1, 2 and 5 of the fact sheet; Lyra 2's aside)."""

TABLE_1 = [
    "td_f8k8f4k4f2k2f1k1_g9",
    "td_f64k8f16k4f4k2f1k1_g9",
    "td_f512k8f64k4f8k2f1k1_g9",
    "td_f512k16f64k8f8k2f1k1_g9",
    "td_f16k4f4k2f1k1_g9",
    "td_f16k4f2k2f1k1_g1",
    "td_f16k4f2k2f1k1_g4",
    "td_f16k4f2k2f1k1_g9",
    "tc_f16k4f2k2f1k1_g9",
    "ta_f16k4f2k2f1k1_g9",
    "td_f8k8f4k4f2k2f1k1_g9_x_f1k1",
    "td_f64k8f16k4f4k2f1k1_g9_x_f1k1",
    "td_f512k8f64k4f8k2f1k1_g9_x_f1k1",
    "td_f512k16f64k8f8k2f1k1_g9_x_f1k1",
    "td_f16k4f4k2f1k1_g9_x_f1k1",
    "td_f16k4f2k2f1k1_g1_x_f1k1",
    "td_f16k4f2k2f1k1_g4_x_f1k1",
    "td_f16k4f2k2f1k1_g9_x_f1k1",
    "tc_f16k4f2k2f1k1_g9_x_f1k1",
    "ta_f16k4f2k2f1k1_g9_x_f1k1",
    "f1k1_x_g9_f1k1f2k2f4k4f8k8_td",
    "f1k1_x_g9_f1k1f4k2f16k4f64k8_td",
    "f1k1_x_g9_f1k1f8k2f64k4f512k8_td",
    "f1k1_x_g9_f1k1f8k2f64k8f512k16_td",
    "f1k1_x_g9_f1k1f4k2f16k4_td",
    "f1k1_x_g1_f1k1f2k2f16k4_td",
    "f1k1_x_g4_f1k1f2k2f16k4_td",
    "f1k1_x_g9_f1k1f2k2f16k4_td",
    "f1k1_x_g9_f1k1f2k2f16k4_tc",
    "f1k1_x_g9_f1k1f2k2f16k4_ta",
]

ELSEWHERE = [
    "f1k1_x_g9_f1k1f2k2f16k4",  # Table 2
    "f16k4f2k2f1k1_g9+D",
    "td_f16k4f2k2f1k1_g9+D",
    "td_f8k8f4k4f2k2f1k1_g9+D",
    "f16k4f2k2f1k1_g9",
    "td_f16k4f4k2f1k1_g9_x_f1k1",
    "f1k1_f16k4f2k2f1k1_g9",  # F1
    "f1k1h2w2_x_g9_f1k1h2w2f2k2h4w4f16k4h8w8_td",  # the released one in the long form
]

FIGURE_1 = {
    "a typical geometric": "f1k1h8w8f1k1h8w4f1k1h4w4f1k1h4w2f1k1_g9",
    "b duplicated levels": "f3k1h8w8f3k1h4w4f1k1_g9",
    "c temporal kernel": "f16k16h8w8f8k8h8w4f4k4h4w4f2k2h4w2f1k1_g9",
    "d important start": "f1k1_f1k1h8w4f1k1h4w4f1k1h4w2f1k1_g9",
    "e symmetric": "f1k1f1k1h4w2f1k1h4w4f1k1h4w2f1k1_g9",
    "e symmetric, start as anchors": "f1k1f1k1h4w2_f1k1h4w4f1k1h4w2f1k1_g9",
}

ALL = TABLE_1 + ELSEWHERE + list(FIGURE_1.values())
