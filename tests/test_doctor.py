"""The doctor's judgement on made-up machines, and its whole report on this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from torchrec_gr.doctor import (
    BUILD_OPS,
    COMPILED_OPS,
    FBGEMM,
    OTHERS,
    SHARDING_TYPES,
    TORCH,
    TORCHREC,
    Attempt,
    Finding,
    Outcome,
    attempt_all,
    check_compiled_ops,
    check_packages,
    check_python,
    check_sharding,
)

REPO = Path(__file__).parents[1]
CPU, CUDA = FBGEMM["cpu"].name, FBGEMM["cuda"].name
NO_GPU, GPU = "CUDA build without a GPU", "CUDA build with a GPU"


def packages(
    torch_build: str = "CPU build",
    broken: str = "",
    without: tuple[str, ...] = (),
    **versions: str,
) -> dict[str, Finding]:
    """The findings on the known-good CPU set, with some things changed, by name."""
    installed = {
        package.name: package.version or "1" for package in (TORCH, FBGEMM["cpu"], *OTHERS)
    }
    installed.update({name.replace("_", "-"): version for name, version in versions.items()})
    imports: dict[Attempt, Outcome] = {
        package.module: Outcome(package.module != broken) for package in (FBGEMM["cpu"], *OTHERS)
    }
    imports[TORCH.module] = Outcome(True, torch_build)
    kept = {name: version for name, version in installed.items() if name not in without}
    return {finding.name: finding for finding in check_packages(kept, imports)}


def failed(findings: Mapping[str, Finding]) -> dict[str, str]:
    """What is marked FAIL, and how to mend it."""
    return {name: finding.mend for name, finding in findings.items() if finding.mark == "FAIL"}


def test_the_known_good_set_fits() -> None:
    findings = packages(torch="2.13.0+cpu")
    assert failed(findings) == {}
    assert "2.13.0+cpu" in findings["torch"].said


def test_an_unfit_version_is_named_with_the_command_that_mends_it() -> None:
    findings = packages(torchmetrics="1.9.0", torchrec="1.7.0")
    assert failed(findings) == {
        "torchmetrics": "pip install torchmetrics==1.0.3",
        "torchrec": "pip install --no-deps torchrec==1.8.0",
    }
    assert "1.9.0" in findings["torchmetrics"].said
    assert "1.0.3" in findings["torchmetrics"].said


def test_an_absent_package_is_named_alone_though_others_do_not_import_without_it() -> None:
    assert failed(packages(without=("iopath",), broken="torchrec")) == {
        "iopath": "pip install iopath"
    }


def test_a_package_that_does_not_import_is_installed_anew() -> None:
    mends = failed(packages(broken="fbgemm_gpu"))
    assert mends == {CPU: "pip install --force-reinstall --no-deps fbgemm-gpu-cpu==1.8.0"}


@pytest.mark.parametrize(
    ("torch_build", "installed", "mend"),
    [
        ("CPU build", (CPU,), None),
        ("CPU build", (CUDA,), f"pip uninstall -y {CUDA} && pip install {CPU}==1.8.0"),
        ("CPU build", (CPU, CUDA), f"pip uninstall -y {CPU} {CUDA} && pip install {CPU}==1.8.0"),
        ("CPU build", (), f"pip install {CPU}==1.8.0"),
        (NO_GPU, (CPU,), None),
        (NO_GPU, (CUDA,), None),
        (GPU, (CUDA,), None),
        (GPU, (CPU,), f"pip uninstall -y {CPU} && pip install {CUDA}==1.8.0"),
        (GPU, (), f"pip install {CUDA}==1.8.0"),
    ],
)
def test_the_build_of_fbgemm_must_fit_that_of_torch(
    torch_build: str, installed: tuple[str, ...], mend: str | None
) -> None:
    absent = tuple({CPU, CUDA} - set(installed))
    findings = packages(torch_build, without=absent, fbgemm_gpu="1.8.0")
    assert list(failed(findings).values()) == ([] if mend is None else [mend])


@pytest.mark.parametrize(
    ("version", "mark"),
    [((3, 9, 18), "FAIL"), ((3, 10, 0), "ok"), ((3, 12, 9), "ok"), ((3, 13, 0), "FAIL")],
)
def test_python_version(version: tuple[int, ...], mark: str) -> None:
    assert check_python(version).mark == mark


def compiled_ops(outcome: Outcome, torch_works: bool = True) -> Finding:
    """The finding on the compiled ops, where importing them ends so."""
    return check_compiled_ops({TORCH.module: Outcome(torch_works), COMPILED_OPS: outcome})


def test_compiled_ops_name_the_instructions_in_use() -> None:
    finding = compiled_ops(Outcome(True, "avx2"))
    assert finding.mark == "ok"
    assert finding.said == "loaded; CPU instructions in use: avx2"


def test_compiled_ops_that_are_not_there_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    finding = compiled_ops(Outcome(False, "ModuleNotFoundError: No module named _C"))
    assert finding == Finding("FAIL", COMPILED_OPS, "not built", BUILD_OPS)


def test_compiled_ops_that_do_not_load_are_built_anew() -> None:
    finding = compiled_ops(Outcome(False, "ImportError: undefined symbol"))
    assert finding.mark == "FAIL"
    assert "undefined symbol" in finding.said
    assert finding.mend == BUILD_OPS


def test_a_wrong_choice_of_cpu_instructions_is_unset() -> None:
    finding = compiled_ops(Outcome(False, "ValueError: TORCHREC_GR_CPU_CAPABILITY: expected ..."))
    assert finding.mark == "FAIL"
    assert finding.mend == "unset TORCHREC_GR_CPU_CAPABILITY"


def test_without_torch_the_compiled_ops_are_not_to_blame() -> None:
    assert compiled_ops(Outcome(False, "no torch"), torch_works=False).mark == "no"


def test_no_sharding_type_at_all_is_a_failure() -> None:
    outcomes: dict[Attempt, Outcome] = {
        ("EmbeddingCollection", kind, "SGD"): Outcome(False, "unsupported")
        for kind in SHARDING_TYPES
    }
    outcomes[TORCHREC.module] = Outcome(True)
    assert check_sharding(outcomes, "EmbeddingCollection")[-1].mark == "FAIL"
    outcomes["EmbeddingCollection", "row_wise", "SGD"] = Outcome(True, "cpu")
    assert {finding.mark for finding in check_sharding(outcomes, "EmbeddingCollection")} == {
        "ok",
        "no",
    }


def misbehave(attempt: Attempt) -> str:
    """What `attempt_all` must survive."""
    print("noise that must not reach the report")
    if attempt == "crash":
        os._exit(3)
    if attempt == "raise":
        raise OSError("no such library\nand a long tail")
    if attempt == "hang":
        time.sleep(600)
    return f"did {attempt}"


def test_a_crash_or_a_hang_costs_only_its_own_attempt(capfd: pytest.CaptureFixture[str]) -> None:
    outcomes = attempt_all(misbehave, ["one", "crash", "raise", "two", "hang"], seconds_each=8)
    assert outcomes == {
        "one": Outcome(True, "did one"),
        "crash": Outcome(False, "crashed, with exit code 3"),
        "raise": Outcome(False, "OSError: no such library"),
        "two": Outcome(True, "did two"),
        "hang": Outcome(False, "took over 8 s"),
    }
    assert capfd.readouterr() == ("", "")


def doctor(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the doctor as a user does."""
    return subprocess.run(
        [sys.executable, *options, "-m", "torchrec_gr.doctor"],
        cwd=REPO,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_this_machine() -> None:
    done = doctor(CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"ok +torchrec_gr._C +loaded; CPU instructions in use: (default|avx\w+|amx)\n", done.stdout
    )
    bags, _, single = done.stdout.partition("Sharding types of EmbeddingCollection")
    for kind in ("table_wise", "row_wise", "column_wise"):
        assert re.search(rf"ok +{kind} +cpu", bags)
        assert re.search(rf"ok +{kind} +cpu", single)
    assert re.search(r"ok +RowWiseAdagrad +cpu", single)
    assert re.search(r"no +Adam +.*not supported", single)
    assert done.stdout.endswith("torchrec_gr can work here.\n")


def test_without_any_package() -> None:
    done = doctor("-S")  # leaves site-packages out
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(
        r"FAIL +torch +not installed\n +mend: pip install torch==2.13.0\n", done.stdout
    )
    assert "not tried" in done.stdout
    assert done.stderr == ""


def test_torch_that_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch_cpu.so: cannot open')\n")
    done = doctor(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"FAIL +torch +does not import: OSError: libtorch_cpu.so", done.stdout)


def test_the_pins_agree() -> None:
    """The doctor, the requirements and setup.py name the same releases."""
    pins = "\n".join((REPO / "requirements" / f).read_text() for f in ("cpu.txt", "torchrec.txt"))
    declared = (REPO / "setup.py").read_text()
    for package in (TORCH, FBGEMM["cpu"], *OTHERS):
        pin = f"{package.name}=={package.version}"
        assert re.search(
            rf"^{re.escape(pin)}{'$' if package.version else ''}", pins, re.MULTILINE
        ), pin
    for package in (TORCH, *(package for package in OTHERS if package.version)):
        assert f'"{package.release}"' in declared
    assert f'FBGEMM = "{FBGEMM["cpu"].version}"' in declared
