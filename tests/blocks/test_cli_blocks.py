"""`bwlab blocks`: whole tables at 100 columns, JSON, translations, and one clear line for each bad base."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

import bwlab.base.names
from bwlab.base.names import base_unet
from bwlab.blocks.configs import SD14
from bwlab.cli.blocks import command
from bwlab.errors import BwlabError

SD14_TABLE = """\
sd14: blocks of the scheme sd

 block  in diffusers                 aliases  part    LBW          kohya  LoRA  LoCon   parameters
 ──────────────────────────────────────────────────────────────────────────────────────────────────
 te     te                           base             BASE                   -      -            -
 in0    down_blocks.0                down.0   upper   IN01-IN03    1-3      24     31   10,524,480
 in1    down_blocks.1                down.1   middle  IN04-IN06    4-6      24     32   36,818,560
 in2    down_blocks.2                down.2   lower   IN07-IN09    7-9      24     32  139,992,320
 in3    down_blocks.3                down.3           IN10-IN11    10-11     0      6   62,277,120
 mid    mid_block                                     M00          12       12     18   97,038,080
 out0   up_blocks.0                  up.0             OUT00-OUT02  13-15     0     13  162,241,280
 out1   up_blocks.1                  up.1     lower   OUT03-OUT05  16-18    36     49  258,330,880
 out2   up_blocks.2                  up.2     middle  OUT06-OUT08  19-21    36     49   71,413,120
 out3   up_blocks.3                  up.3     upper   OUT09-OUT11  22-24    36     48   18,810,560
 rest   time_embedding, conv_in,                      IN00         0         0      0    2,074,564
        conv_norm_out, conv_out

 UNet                                                                      192    278  859,520,964

parts: upper = in0 + out3; middle = in1 + out2; lower = in2 + out1; all = in0 ... out3
* = every block that no other entry of a spec names; for ranks, only those of the part all
LoRA, LoCon: number of layers that they adapt; parameters: of the frozen UNet, without text encoders
LBW: cells of LBW strings; kohya: indices in kohya's lists, from 0
one level finer: --cells; specs take all of these names: --blocks "in0=16, out3.2=4, *=0"
"""


def blocks(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, arguments)


def shown(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())


def test_the_table_of_sd14() -> None:
    assert shown(blocks("sd14")) == SD14_TABLE


@pytest.mark.parametrize("base", ["sd14", "sd21", "sdxl"])
@pytest.mark.parametrize("options", [[], ["--cells"]])
def test_tables_fit_100_columns(base: str, options: list[str]) -> None:
    lines = shown(blocks(base, *options)).splitlines()
    assert max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)


def test_cells_add_up_to_blocks() -> None:
    cells = json.loads(blocks("sdxl", "--cells", "--json").stdout)
    whole = json.loads(blocks("sdxl", "--json").stdout)
    assert cells["total"] == whole["total"] == {"lora": 722, "locon": 788, "parameters": 2_567_463_684}
    for key in ("lora", "locon", "parameters"):
        for table in (cells, whole):
            assert sum(row[key] or 0 for row in table["rows"]) == whole["total"][key]


def test_json_of_a_block() -> None:
    rows = {row["name"]: row for row in json.loads(blocks("sd14", "--json").stdout)["rows"]}
    assert rows["out3"] == {
        "name": "out3",
        "paths": ["up_blocks.3"],
        "aliases": ["up.3"],
        "lbw": ["OUT09", "OUT10", "OUT11"],
        "kohya": [22, 23, 24],
        "parts": ["upper"],
        "lora": 36,
        "locon": 48,
        "parameters": 18_810_560,
    }
    assert rows["te"]["parameters"] is None


def test_a_local_folder_is_counted_on_the_spot(tiny_pipeline: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(tiny_pipeline, subfolder="unet")
    found = json.loads(blocks(str(tiny_pipeline), "--json").stdout)
    assert found["total"]["parameters"] == sum(parameter.numel() for parameter in unet.parameters())
    assert "no kohya list" in shown(blocks(str(tiny_pipeline)))


def test_translations_go_to_stdout_and_notes_to_stderr() -> None:
    result = blocks("sd14", "--to", "kohya", "upper=16, te=4")
    assert result.stdout == "0,16,16,16,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,16,16,16\n"
    assert result.stderr == "bwlab: note: kohya lists have no entry for te\n"
    back = blocks("sd14", "--from", "kohya", result.stdout.strip())
    assert back.stdout == "in0=16, out3=16\n"
    tag = blocks("sd14", "--to", "a1111", "upper=1", "--name", "ink")
    assert tag.stdout == "<lora:ink:1:lbw=0,0,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,1>\n"
    assert tag.stderr.startswith("bwlab: note: lbw= is read where the extension LoRA Block Weight is installed")
    assert blocks("sd14", "--from", "a1111", tag.stdout.strip()).stdout == "*=0, in0=1, out3=1\n"
    as_json = json.loads(blocks("sd14", "--json", "--to", "kohya", "mid=4").stdout)
    assert as_json["notes"] == []


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["sd15"], "Did you mean sd14"),
        (["sd14", "--kind", "rank"], "neither is given"),
        (["sd14", "--to", "lbw", "1", "--from", "lbw", "1"], "both are given"),
        (["sd14", "--to", "lbw", "uper=1"], "Did you mean upper"),
        (["sd14", "--to", "lbw", "1", "--name", "fox"], "only prompt tags have names"),
        (["sd14", "--to", "a1111", "1", "--name", "a:b"], "no colon"),
        (["sd14", "--to", "lbw", ""], "it is empty"),
    ],
)
def test_bad_arguments_are_user_errors(arguments: list[str], found: str) -> None:
    result = blocks(*arguments)
    assert isinstance(result.exception, BwlabError)
    assert found in str(result.exception)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "there is no unet/config.json"),
        ("{", "it cannot be read"),
        ("[1]", "it is no JSON object"),
        (b"\xff", "read"),
    ],
)
def test_a_folder_that_is_no_pipeline(tmp_path: Path, content: str | bytes | None, found: str) -> None:
    if content is not None:
        (tmp_path / "unet").mkdir()
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "unet" / "config.json").write_bytes(raw)
    with pytest.raises(BwlabError, match=found):
        base_unet(str(tmp_path))


def test_the_embedded_base_is_read_from_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bwlab.base.names, "EMBEDDED_FOLDERS", {"emoji": str(tmp_path)})
    with pytest.raises(BwlabError, match="lacks the embedded base model"):
        base_unet("emoji")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(SD14))
    assert base_unet("emoji").config["cross_attention_dim"] == 768


def test_known_models_need_no_torch() -> None:
    script = (
        "import sys; from bwlab.cli.blocks import command; command('sd14', cells=True);"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "859,520,964" in done.stdout


def test_the_docs_show_the_table_and_translations_as_they_are() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "blocks.md").read_text(encoding="utf-8")
    assert SD14_TABLE in docs
    for line in re.findall(r"^\$ bwlab blocks (sd14 --.*)$", docs, re.MULTILINE):
        result = blocks(*shlex.split(line))
        assert f"$ bwlab blocks {line}\n{result.stdout}{result.stderr}" in docs
