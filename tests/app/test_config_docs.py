from __future__ import annotations

import re

from app.config import GatewayConfig
from app.config_docs import FILE, markdown


def test_the_page_is_that_of_the_present_configuration() -> None:
    assert FILE.read_text("utf-8") == markdown(), "`make docs` writes it anew"


def test_every_key_has_a_type_and_a_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \| (.*) \|$", markdown(), re.MULTILINE)
    keys = {key for key, *_ in rows}
    assert GatewayConfig.model_fields.keys() < keys
    assert {"embedded", "usd_per_1m_input_tokens", "gpu_fraction", "judge"} < keys
    assert [key for key, kind, _, meaning in rows if not (kind and meaning)] == []  # its section's `Attributes:` has it


def test_sections_are_named_by_their_path() -> None:
    headings = re.findall(r"^## (.+)$", markdown(), re.MULTILINE)
    assert len(set(headings)) == len(headings)
    assert {
        "`cache.audit`",
        "`cache.tenants.NAME`",
        "`cache.embedder`, `kind: sentence-transformers`",
        "`tiers[].targets[].price`",
    } < set(headings)
