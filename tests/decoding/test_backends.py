from __future__ import annotations

import logging

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
)

from recbole_sigma.decoding import prompts
from recbole_sigma.decoding.beam import beam_search
from recbole_sigma.decoding.checks import warping_settings
from recbole_sigma.decoding.prompts import read_prompts
from recbole_sigma.decoding.t5 import T5Decoder
from recbole_sigma.values import UserError
from tests.arithmetic import SCORES, STATES, same_list
from tests.language_models import random_model


@pytest.fixture
def with_lora(shop, make_model):
    def build(family):
        torch.manual_seed(3)
        targets = {"t5": ["q", "v", "wi"], "llama": ["q_proj", "v_proj", "up_proj"]}[family]
        peft = get_peft_model(
            make_model(family, shop.vocabulary), LoraConfig(r=4, target_modules=targets)
        ).eval()
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
        return peft

    return build


def test_lora_equals_merged_weights_causal(shop, with_lora):
    ids, mask = shop.prompts()
    peft = with_lora("llama")
    adapted = shop.search(peft, ids, mask, 10, 20)
    plain = shop.search(peft.get_base_model().__class__(peft.config).eval(), ids, mask, 10, 20)
    merged = shop.search(peft.merge_and_unload(), ids, mask, 10, 20)
    same_list(adapted, merged)
    assert not torch.equal(adapted.items, plain.items)


def test_lora_equals_merged_weights_t5(shop, with_lora):
    ids, mask = shop.prompts()
    peft = with_lora("t5")
    adapted = shop.search(peft.get_base_model(), ids, mask, 10, 20)
    expected = shop.brute_force(peft.get_base_model(), ids, mask)
    merged = shop.search(peft.merge_and_unload(), ids, mask, 10, 20)
    same_list(adapted, merged)
    assert torch.allclose(adapted.scores, expected.gather(1, adapted.items), **SCORES)


def test_cached_steps_equal_forward_passes_without_cache(shop, model):
    """Every score of the search is the one that plain uncached forward passes of the model give."""
    ids, mask = shop.prompts()
    got = shop.search(model, ids, mask, 20, 20)
    expected = shop.brute_force(model, ids, mask)
    assert torch.allclose(got.scores, expected.gather(1, got.items), **SCORES)


@pytest.mark.parametrize("reserve", [1, 7, 500])
def test_the_pool_may_start_small(shop, model, reserve):
    ids, mask = shop.prompts()
    small = beam_search(shop.decoder(model, ids, mask, reserve=reserve), shop.trie, shop.tokens, 10, 20)
    usual = shop.search(model, ids, mask, 10, 20)
    same_list(small, usual)


@pytest.mark.parametrize("lengths", [(12, 6, 4, 3), (2, 12, 5, 5), (12, 12, 12, 11)])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_short_prompts_share_rows_and_each_reads_itself_alone(shop, models, family, lengths):
    model, (ids, _) = models[family], shop.prompts()
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]
    tokens = shop.tokens[0][torch.randint(0, shop.sizes[0], (4, 3), generator=shop.generator)]
    read_prompts(model, ids, mask)  # the probe
    read = []
    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: read.append(args[0].numel())
    )
    together = read_prompts(model, ids, mask)
    hook.remove()
    assert read[0] < 1.1 * sum(lengths)
    behind = together.advance(tokens, torch.zeros_like(tokens)).hidden
    for row in range(4):
        alone = read_prompts(model, ids[row, mask[row]][None])
        assert torch.allclose(together.first().hidden[row], alone.first().hidden[0], **STATES)
        own = tokens[row][None]
        assert torch.allclose(behind[row], alone.advance(own, torch.zeros_like(own)).hidden[0], **STATES)


def test_eager_attention_equals_sdpa(shop, models):
    ids, mask = shop.prompts()
    usual = shop.search(models["llama"], ids, mask, 10, 20)
    models["llama"].set_attn_implementation("eager")
    try:
        eager = shop.search(models["llama"], ids, mask, 10, 20)
    finally:
        models["llama"].set_attn_implementation("sdpa")
    same_list(eager, usual)


def test_gated_untied_t5_is_exact_as_well(shop, make_model):
    model = make_model(
        "t5", shop.vocabulary, num_decoder_layers=3, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, relative_attention_num_buckets=8,
    )  # fmt: skip
    ids, mask = shop.prompts()
    got = shop.search(model, ids, mask, 20, 20)
    assert torch.allclose(got.scores, shop.brute_force(model, ids, mask).gather(1, got.items), **SCORES)


def test_soft_capped_logits_come_from_the_models_own_head(shop):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=shop.vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        final_logit_softcapping=2.0, attn_logit_softcapping=None,
        sliding_window=64, max_position_embeddings=64, initializer_range=0.5, attn_implementation="eager",
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    ids, mask = shop.prompts()
    got = shop.search(model, ids, mask, 20, 20)
    assert torch.allclose(got.scores, shop.brute_force(model, ids, mask).gather(1, got.items), **SCORES)


def test_holes_in_the_mask_are_closed(shop, models):
    ids, mask = shop.prompts(batch=1)
    holes = torch.zeros(1, 24, dtype=torch.int64)
    spread = torch.zeros(1, 24, dtype=torch.int64)
    holes[:, ::2], spread[:, ::2] = mask, ids
    got = shop.search(models["llama"], spread, holes, 10, 20)
    same_list(got, shop.search(models["llama"], ids, mask, 10, 20))


def test_unfit_models_are_refused(shop, models, make_model):
    ids, mask = shop.prompts()
    with pytest.raises(UserError, match="encoder-decoder.*T5Decoder"):
        read_prompts(models["t5"], ids, mask)
    llama = make_model("llama", shop.vocabulary)
    llama.train()
    with pytest.raises(UserError, match="training mode"):
        read_prompts(llama, ids, mask)
    llama.eval()
    llama.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="flash_attention_2.*attn_implementation='sdpa'"):
        read_prompts(llama, ids, mask)
    bloom = BloomForCausalLM(
        BloomConfig(vocab_size=shop.vocabulary, hidden_size=32, n_layer=1, n_head=4)
    ).eval()
    with pytest.raises(UserError, match="position_ids"):
        read_prompts(bloom, ids, mask)
    with pytest.raises(UserError, match="no output head"):
        read_prompts(models["llama"].model, ids, mask)
    soft = get_peft_model(
        make_model("llama", shop.vocabulary), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with pytest.raises(UserError, match="soft prompt"):
        read_prompts(soft.eval(), ids, mask)
    half = make_model("t5", shop.vocabulary).half()
    with pytest.raises(UserError, match="float16"):
        T5Decoder(half, ids, mask)


def test_prompts_beyond_window_or_positions_are_refused(shop, models):
    model = random_model("mistral", shop.vocabulary, sliding_window=16)
    ids, mask = shop.prompts(length=12)
    with pytest.raises(UserError, match="sliding window of 16 tokens"):
        read_prompts(model, ids, mask)
    assert shop.search(model, *shop.prompts(length=8), 5, 5).items.shape == (4, 5)
    with pytest.raises(UserError, match="70 tokens but GPT2LMHeadModel knows 64"):
        read_prompts(models["gpt2"], *shop.prompts(length=70))


def test_empty_prompts_are_refused(shop, model):
    ids, mask = shop.prompts()
    mask[2] = 0
    with pytest.raises(UserError, match="row 2 of the batch has an empty prompt"):
        shop.decoder(model, ids, mask)


def test_a_model_that_ignores_the_mask_is_caught_by_the_probe(shop, make_model, monkeypatch):
    model = make_model("llama", shop.vocabulary)
    original = torch.nn.functional.scaled_dot_product_attention

    def careless(query, key, value, attn_mask=None, **options):
        return original(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", careless)
    with pytest.raises(UserError, match="does not give the same result when beams share one prompt"):
        read_prompts(model, *shop.prompts())
    assert model not in prompts._probed


def test_the_probe_runs_once_per_model(shop, make_model):
    model = make_model("llama", shop.vocabulary)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    read_prompts(model, *shop.prompts())
    first = len(calls)
    read_prompts(model, *shop.prompts())
    assert first > 1 and len(calls) == first + 1  # the prompts themselves


@pytest.mark.parametrize(
    "setting",
    [{"do_sample": True}, {"repetition_penalty": 1.2}, {"no_repeat_ngram_size": 2}, {"bad_words_ids": [[3]]},
     {"suppress_tokens": [4]}, {"min_new_tokens": 3}, {"forced_bos_token_id": 3}],
)  # fmt: skip
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_generation_configs_that_warp_logits_are_refused_or_knowingly_ignored(
    shop, make_model, family, setting, caplog
):
    model = make_model(family, shop.vocabulary)
    ids, mask = shop.prompts()
    expected = shop.search(model, ids, mask, 10, 20)
    model.generation_config = GenerationConfig(**setting)
    key = next(iter(setting))
    with pytest.raises(UserError, match=f"generation_config sets {key}=.*ignore_generation_config"):
        shop.decoder(model, ids, mask)
    with caplog.at_level(logging.INFO):
        decoder = shop.decoder(model, ids, mask, ignore_generation_config=True)
    assert key in caplog.text
    got = beam_search(decoder, shop.trie, shop.tokens, 10, 20)
    same_list(got, expected)


def test_harmless_generation_configs_pass():
    assert warping_settings(GenerationConfig(temperature=1.0, num_beams=4, max_new_tokens=3)) == {}
    assert warping_settings(GenerationConfig()) == {}
    assert warping_settings(None) == {}


def test_a_mask_of_another_shape_is_refused(shop, model):
    ids, mask = shop.prompts()
    with pytest.raises(ValueError, match="does not fit"):
        shop.decoder(model, ids, mask[:, :-1])


def test_prompts_of_one_token(shop, model):
    ids, mask = shop.prompts(batch=3, length=4)
    got = shop.search(model, ids[:, :1], mask[:, :1], 10, 20)
    truth = shop.brute_force(model, ids[:, :1], mask[:, :1])
    assert torch.allclose(got.scores, truth.gather(1, got.items), **SCORES)
