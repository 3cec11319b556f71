"""The tokenizer of the embedded models."""

from tinyworld.recipes.tokenizer import MAX_LENGTH, build_tokenizer


def test_words_of_the_grammar_are_whole_and_drawn_words_are_spelled(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    for tok in (tokenizer, type(tokenizer).from_pretrained(tmp_path)):
        tokens = tok.convert_ids_to_tokens(tok('Two red CIRCLES on a sign saying "ONE"').input_ids)
        assert tokens[1:4] == ["two", "red", "circles"]
        tokens = tok.convert_ids_to_tokens(tok('a red sign saying "BOX"').input_ids)
        assert tokens[6:9] == ["b", "o", "x</w>"]
        assert tok.model_max_length == MAX_LENGTH


def test_the_longest_caption_fits():
    longest = "an image of three orange triangles to the right of two orange diamonds on a checkered background"
    assert len(build_tokenizer()(longest).input_ids) <= MAX_LENGTH
