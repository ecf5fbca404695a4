"""The Python snippets of README.md and MIGRATION.md run, in their order, with a real coordinator and DynamoDB Local."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import Client

PAGES = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("page", ["README.md", "MIGRATION.md"])
def test_snippets_run(page: str, endpoint: str, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_ENDPOINT", endpoint)
    done: list[str] = []

    async def write_report_slowly(fence: int) -> None:
        done.append("report")

    names: dict[str, Any] = {
        "write_report": lambda fence=0: done.append("report"),
        "write_report_slowly": write_report_slowly,
        "steps": ["a", "b"],
        "migrate": lambda step, fence: done.append("migration"),
        "process": lambda event, fence: fence,
        "current_lease": holdfast.current_lease,
        "table": table,
        "text": "text",
    }
    blocks = re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block.replace("http://127.0.0.1:7420", endpoint), page, "exec"), names)
    if page == "README.md":
        asyncio.run(names["daily"]())

        class Context:
            aws_request_id = "1"

            def get_remaining_time_in_millis(self) -> int:
                return 5000

        assert names["handler"]({"id": "7"}, Context()) > 0
        assert done == ["report", "migration", "migration", "report"]
        assert table.get_item(Key={"id": "daily"})["Item"]["body"] == "text"
        names["direct"].close()
    else:
        assert done == ["report"] * 3
        assert names["lost"] == []
    names["client"].close()


def test_options_are_documented() -> None:
    text = (PAGES / "README.md").read_text()
    for option in holdfast.AcquireOptions.__annotations__:
        assert f"`{option}`" in text, f"README.md does not name the option {option}"
    for method, _ in inspect.getmembers(Client, inspect.isfunction):
        assert method.startswith("_") or f"client.{method}(" in text, f"README.md does not name Client.{method}"
    for name in holdfast.__all__:
        error = getattr(holdfast, name)
        if isinstance(error, type) and issubclass(error, holdfast.HoldfastError) and error is not holdfast.HoldfastError:
            assert f"`{name}`" in text, f"README.md does not name the error {name}"
