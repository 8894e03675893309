"""The YAML of domains, read strictly."""

from pathlib import Path

import pytest

from rm_toolkit.collection.domains import load_domains
from rm_toolkit.errors import InputError


PAPER = ["academy", "business", "entertainment", "literature"]


def test_the_domains_of_the_paper_are_there():
    domains = load_domains(Path(__file__).parents[2] / "data" / "domains.yaml")
    assert [domain.name for domain in domains] == PAPER
    assert all(len(domain.system_prompt) > 100 and "\n" not in domain.system_prompt for domain in domains)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("domains: [{name: law, system_prompt: [", "is not valid YAML"),
        ("- name: law", "must have `name: value` lines, but is a list"),
        ("domains: []", "must have a list under `domains:`"),
        ("domain: x\ndomains: [{name: law, system_prompt: You.}]", "no field 'domain', only 'domains'. Did you mean"),
        ("domains: [law]", "domain 1: expected `name: …`"),
        ("domains: [{name: law, prompt: You.}]", "domain 1: there is no field 'prompt'"),
        ("domains: [{name: law, system_promt: You.}]", "Did you mean 'system_prompt'"),
        ("domains: [{name: law}]", "`system_prompt` must be a text, got null"),
        ("domains: [{name: 3, system_prompt: You.}]", "`name` must be a text, got the number 3"),
        ("domains: [{name: law, name: art, system_prompt: You.}]", "the key 'name' is given twice"),
        ("domains: [{name: law, system_prompt: A.}, {name: law, system_prompt: B.}]", "'law' is given twice"),
        ("domains: [{name: law, system_prompt: A.}, {name: art, system_prompt: A.}]", "have the same system prompt"),
        ("domains: [{name: normal, system_prompt: A.}]", "reserved for the instruction's own answer"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, message):
    (tmp_path / "domains.yaml").write_text(text)
    with pytest.raises(InputError) as raised:
        load_domains(tmp_path / "domains.yaml")
    assert message in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_domains(tmp_path / "none.yaml")
