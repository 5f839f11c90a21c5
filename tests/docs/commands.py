"""Runs the shell commands of the pages as they stand, but for what replaced.py lists."""

from __future__ import annotations

import argparse
import logging
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.blocks import ROOT
from tests.docs.replaced import SHORTER, SMALL_LOG, SMALL_SETTINGS, is_slow
from tests.docs.slices import SLICES, write_clicks


class AbsentDataError(Exception):
    """Real data that a command needs is not here."""


class Parsed(Exception):
    """The command line was understood."""


def parse_only(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a command read its arguments, and do nothing."""
    original = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, given: list[str] | None = None) -> None:
        original(parser, given)
        raise Parsed

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed):
            call(module, arguments, patched)


def call(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Does what `python -m MODULE ARGUMENTS` does, in this process; its logging stays as it is."""
    disabled = logging.root.manager.disable
    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
        patched.setattr(sys, "argv", [module, *arguments])
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code not in (None, 0):
                raise AssertionError(f"{module} {shlex.join(arguments)}: {end.code}") from end
        finally:
            logging.disable(disabled)


def commands_of(text: str, variables: dict[str, str]) -> list[list[str]]:
    """The commands of a shell block, as words: lines joined, variables put in, comments out.

    Args:
        text: of the block.
        variables: that earlier blocks of the page have set; those of this one are added.
    """
    commands: list[list[str]] = []
    for line in text.replace("\\\n", "").splitlines():
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        words = shlex.split(line, comments=True)
        if len(words) == 1 and (variable := re.fullmatch(r"([A-Z]+)=(.*)", words[0])):
            variables[variable[1]] = variable[2]
        elif words[:1] == ["for"]:  # the first of the loop's values stands for all
            variables[words[1]] = words[3].rstrip(";")
        elif words and words != ["done"]:
            commands.append(words)
    return commands


class Reader:
    """Someone who types a page's commands into a scratch folder.

    Args:
        folder: the scratch folder, the current one.
        data: by `--data`, a folder with a slice of it.
        made: the folder of what was made once for all pages.
        in_full: whether slow commands run as well.
        monkeypatch: of the test.
    """

    def __init__(
        self,
        folder: Path,
        data: Callable[[str], Path],
        made: Path,
        in_full: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.folder, self.data, self.made = folder, data, made
        self.in_full, self.monkeypatch = in_full, monkeypatch
        self.variables: dict[str, str] = {}
        self.absent: list[str] = []

    def run(self, command: list[str]) -> None:
        """Carries out one command, or checks what can be checked without.

        Raises:
            AssertionError: the command fails, or no rule says how to run it.
        """
        environment = [word for word in command if re.fullmatch(r"[A-Z_]+=\S+", word)]
        program, *arguments = command[len(environment) :]
        if program == "make":
            subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
        elif program == "pip":
            check_pip(arguments)
        elif program == "torchrun":
            self._run_torchrun(arguments)
        elif [program, arguments[0]] == ["python", "-m"]:
            self._run_module(arguments[1], arguments[2:])
        else:
            raise AssertionError(f"no rule says how to run {shlex.join(command)}")

    def make(self, folder: str) -> None:
        """Makes a folder that a page needs from another page's command, or takes it as made."""
        module = "pinfm" if folder == "runs/pinfm" else "gpsd"
        self.run(
            shlex.split(
                f"python -m pipelines.pretrain --module {module} --data synthetic --out {folder}"
            )
        )

    def _run_torchrun(self, arguments: list[str]) -> None:
        place = arguments.index("-m")
        module, given = arguments[place + 1], arguments[place + 2 :]
        parse_only(module, given, self.monkeypatch)
        if self.in_full:
            words = [*arguments[: place + 2], *self._small(module, given)]
            done = subprocess.run(
                [sys.executable, "-m", "torch.distributed.run", *words],
                cwd=self.folder,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-3000:]

    def _run_module(self, module: str, given: list[str]) -> None:
        is_doctor = module == "torchrec_gr.doctor"  # which has no arguments to parse
        if not is_doctor:
            parse_only(module, given, self.monkeypatch)
        if is_slow(["python", "-m", module, *given]) and not self.in_full:
            return
        if is_doctor:  # it tries things in processes of its own, which must not be pytest's
            subprocess.run([sys.executable, "-m", module, *given], cwd=ROOT, check=True)
            return
        if module == "pipelines.pretrain" and "synthetic" in given and "--from" not in given:
            self._pretrain(given)
        else:
            try:
                small = self._small(module, given)
            except AbsentDataError as error:
                self.absent.append(str(error))
                return
            call(module, small, self.monkeypatch)

    def _pretrain(self, given: list[str]) -> None:
        """Pretrains once for all pages that do it alike, under names of their own."""
        place = given.index("--out") + 1
        out, others = self.folder / given[place], [*given[: place - 1], *given[place + 1 :]]
        key = re.sub(r"\W+", "_", " ".join(sorted(others)))
        kept = self.made / key
        if "--config" in others or not kept.exists():
            call("pipelines.pretrain", self._small("pipelines.pretrain", given), self.monkeypatch)
            if "--config" not in others:
                shutil.copytree(out, kept)
        elif not out.exists():
            shutil.copytree(kept, out)

    def _small(self, module: str, given: list[str]) -> list[str]:
        words = list(given)
        for option, value in SHORTER.get(module, {}).items():
            if option in words:
                words[words.index(option) + 1] = value
            else:
                words += [option, value]
        if "DIR" in words:
            name = words[words.index("--data") + 1] if "--data" in words else "kuairand-pure"
            words[words.index("DIR")] = str(self.data(name))
        if "logs" in words:
            write_clicks(self.folder / "logs")
        if module.startswith("benchmarks"):
            return [*words, "--quick"]
        return self._with_small_settings(module, words) if module in SMALL_SETTINGS else words

    def _with_small_settings(self, module: str, words: list[str]) -> list[str]:
        settings: dict[str, Any] = {}
        if "--config" in words:
            given = words[words.index("--config") + 1]
            root = ROOT if given.startswith("pipelines/") else self.folder
            settings = yaml.safe_load((root / given).read_text(encoding="utf-8"))
        small = merged(settings, SMALL_SETTINGS[module])
        if "synthetic" in words:
            small = merged(small, {"data_options": SMALL_LOG})
        number = len(list(self.folder.glob("small-*.yaml")))
        file = self.folder / f"small-{number}.yaml"
        file.write_text(yaml.safe_dump(small), encoding="utf-8")
        return [*words, "--config", str(file)]  # the last one counts


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second laid over the first."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def check_pip(arguments: list[str]) -> None:
    """Refuses an installation whose releases or extras are not those of setup.py."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert arguments[0] == "install"
    for word in arguments[1:]:
        if extra := re.fullmatch(r"\.\[(\w+)\]", word):
            assert f'"{extra[1]}": [' in setup, word
        elif "==" in word:
            assert f'"{word}"' in setup, word
        else:
            assert word in ("--no-build-isolation", "--no-deps", "setuptools", "ninja"), word


def small_data(shared: Path, folder: Path, name: str) -> Path:
    """The slice of a data set, made where it is not there yet.

    Args:
        shared: the folder of the real data.
        folder: of the slices.
        name: as `--data` has it.

    Raises:
        AbsentDataError: the real data is not there.
    """
    source, write = SLICES[name]
    small = folder / name
    if not (shared / source).is_dir():
        raise AbsentDataError(f"{shared / source} is not there")
    if not small.exists():
        small.mkdir(parents=True)
        write(shared / source, small)
    return small
