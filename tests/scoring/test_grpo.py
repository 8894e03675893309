"""TRL's GRPOTrainer trains on our rewards, from the path of a chat model or a text model's reward function."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from rm_toolkit.scoring.scorer import RewardScorer


# TRL's own defaults use arguments that transformers deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def train_grpo(tmp_path, base_model):
    """`train_grpo(reward, prompts, **columns)`: trains a few steps; returns (prompt, completion, reward) lists."""

    def train(reward, prompts, **columns):
        import torch
        from trl import GRPOConfig, GRPOTrainer

        args = GRPOConfig(
            output_dir=str(tmp_path / "grpo"),
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            max_steps=3,
            num_generations=2,
            per_device_train_batch_size=4,
            max_completion_length=12,
            learning_rate=1e-3,
            beta=0.0,
            model_init_kwargs={"dtype": torch.float32},
        )
        data = Dataset.from_dict({"prompt": prompts, **columns})
        trainer = GRPOTrainer(base_model("qwen3"), reward_funcs=reward, args=args, train_dataset=data)
        before = trainer.model.get_input_embeddings().weight.detach().clone()
        computed, calculate = [], trainer._calculate_rewards

        def watch(inputs, prompts, completions, ids):
            rewards = calculate(inputs, prompts, completions, ids)
            computed.append((inputs, prompts, completions, rewards[:, 0].tolist()))
            return rewards

        trainer._calculate_rewards = watch
        trainer.train()
        assert len(computed) == 3 and not torch.equal(before, trainer.model.get_input_embeddings().weight)
        assert any("rewards/" in key for log in trainer.state.log_history for key in log)
        return [[item for step in part for item in step] for part in zip(*computed)]

    return train


def test_a_chat_model_given_as_a_path(train_grpo, reward_model):
    folder = reward_model("qwen3", data_format="chat")
    prompts = [[{"role": "user", "content": f"Name a {word}."}] for word in ("river", "stone", "lantern", "window")]
    _, prompts, completions, rewards = train_grpo(folder, prompts)
    assert len(rewards) == 12 and np.ptp(rewards) > 0.01
    expected = RewardScorer(folder, device="cpu").score(prompts, completions)
    np.testing.assert_allclose(rewards, expected, atol=1e-5)


@pytest.mark.parametrize("pooling_type", ["last", "eos"])
def test_a_text_model_as_a_reward_function(train_grpo, reward_model, pooling_type):
    folder = reward_model("llama", pooling_type=pooling_type)
    scorer = RewardScorer(folder, device="cpu")
    prompts = [f"## Human:\nName a {word}.\n\n## Assistant:\n" for word in ("river", "stone", "lantern", "window")]
    _, prompts, completions, rewards = train_grpo(scorer.as_reward_function(), prompts, domain=["a", "b", "c", "d"])
    assert len(rewards) == 12 and np.ptp(rewards) > 0.01
    # The toolkit's rewards for the same texts, one text at a time.
    alone = [scorer.score([prompt], [completion])[0] for prompt, completion in zip(prompts, completions)]
    np.testing.assert_allclose(rewards, alone, atol=1e-5)
