"""Chinese as LongBench scores it: words cut by jieba, its own list of punctuation removed."""

import logging
import string

# The benchmark's own list, which has 》 but not 《.
_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜"
    "〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
_DROP = str.maketrans("", "", string.punctuation + _PUNCTUATION)


def is_chinese(text: str) -> bool:
    """Whether more than half of the letters of `text` are Chinese characters."""
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum("\u4e00" <= letter <= "\u9fff" for letter in letters) > len(letters)


def cut(text: str) -> list[str]:
    """The words of `text` in order; joined they are `text` again."""
    import jieba  # its dictionary costs half a second, which English runs need not pay

    jieba.setLogLevel(logging.WARNING)
    return jieba.lcut(text)


def answer_words(text: str) -> list[str]:
    """Words for QA F1: cut first, then lower case, without punctuation, spaces or empty words."""
    words = ("".join(word.lower().translate(_DROP).split()) for word in cut(text))
    return [word for word in words if word]
