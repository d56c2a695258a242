"""The maker of the shipped encoder: its tiles are cut whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from histostudy.errors import EncoderError
from histostudy.verbs import builtin_cnn


def test_tiles_are_kept_only_where_they_are_whole_and_of_the_same_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def cut(source: Path, out: Path, seed: int, most: int) -> None:
        calls.append(seed)
        out.mkdir(parents=True)
        (out / "0.png").write_bytes(b"tile")
        if seed == 9:
            raise EncoderError("no picture")

    monkeypatch.setattr(builtin_cnn, "cut_tiles", cut)
    out = tmp_path / "made" / "tiles"
    for seed in (0, 0, 1):
        assert (builtin_cnn.kept_tiles(tmp_path, out, seed) / "0.png").is_file()
    with pytest.raises(EncoderError):
        builtin_cnn.kept_tiles(tmp_path, out, 9)
    builtin_cnn.kept_tiles(tmp_path, out, 1)
    assert calls == [0, 1, 9] and [p.name for p in out.parent.iterdir()] == ["tiles"]
    (out / "cut.json").unlink()
    with pytest.raises(EncoderError, match="no record of how it was cut"):
        builtin_cnn.kept_tiles(tmp_path, out, 1)


def test_a_missing_teacher_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["x", "--source", str(tmp_path), "--teacher", str(tmp_path / "none.pt"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(
        "sys.argv",
        [*given, "--study", str(Path(__file__).parents[2] / "config" / "studies" / "train_builtin_cnn.yaml")],
    )
    with pytest.raises(SystemExit) as ended:
        builtin_cnn.main()
    assert ended.value.code == 2 and "none.pt" in capsys.readouterr().err
