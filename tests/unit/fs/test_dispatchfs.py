"""/dispatch where the store has no room: a call that ran has its reply."""

import json
from pathlib import Path
from typing import Any

import pytest

from nexusfs.contracts.errors import NoSpaceError
from tests.unit.services.running import world


async def test_a_call_that_cannot_be_kept_still_has_its_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise NoSpaceError("no space")

    async with world(tmp_path) as w:
        await w.files.write_file("/f", b"hello")
        await w.files.write_file("/dispatch/list_dir", b'{"path": "/"}')
        kept = await w.files.sys_readlink("/dispatch/.last")
        monkeypatch.setattr(w.kernel.backing.call_log, "put", full)

        opened = await w.files.sys_open("/dispatch/read_file", 2)
        await w.files.sys_write(opened.fd, b'{"path": "/f"}', 0)
        reply = json.loads(await w.files.sys_read(opened.fd, 10_000, 0))
        await w.files.sys_close(opened.fd)

        assert reply["success"] and "hello" in reply["output"]
        assert await w.files.sys_readlink("/dispatch/.last") == kept
    assert "is not kept in .calls: no space" in caplog.text
