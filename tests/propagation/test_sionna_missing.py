"""What ray tracing says where it cannot run; these tests need no ray tracer."""

import os
import subprocess
import sys

import pytest

from hertzmap.core.errors import HertzmapError, MissingExtraError
from hertzmap.propagation.sionna_rt import check_llvm

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sionna", "mitsuba", "drjit"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
import hertzmap.propagation.material_fit
from hertzmap.core.errors import HertzmapError
from hertzmap.propagation.sionna_rt import SionnaScene
try:
    SionnaScene.load(None)
except HertzmapError as error:
    assert isinstance(error, ImportError)
    sys.stdout.write(str(error))
"""


def _python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_without_the_extra_all_else_works_and_asking_for_it_says_what_to_install():
    found = _python(BLOCKED)
    assert found.returncode == 0, found.stderr
    assert "pip install 'hertzmap[rt]'" in found.stdout
    assert "libllvm19" in found.stdout


@pytest.mark.parametrize("version", [(15, 0, 7), (16, 0, 6), (14, 0, 6), (-1, -1, -1)])
def test_an_unfit_llvm_is_refused_by_name_with_the_remedy(version):
    with pytest.raises(MissingExtraError, match="libllvm19") as caught:
        check_llvm(version)
    assert "DRJIT_LIBLLVM_PATH" in str(caught.value)
    assert isinstance(caught.value, HertzmapError)
    if version[0] > 0:
        assert ".".join(map(str, version)) in str(caught.value)


@pytest.mark.parametrize("version", [(17, 0, 6), (19, 1, 7), (21, 0, 0)])
def test_a_fit_llvm_passes(version):
    check_llvm(version)


def test_a_machine_without_llvm_is_told_what_to_install():
    pytest.importorskip("drjit")
    code = BLOCKED.replace("sys.meta_path.insert(0, Blocker())", "")
    found = _python(code, DRJIT_LIBLLVM_PATH="/nowhere/libLLVM.so", CUDA_VISIBLE_DEVICES="")
    assert found.returncode == 0, found.stderr
    assert "libllvm19" in found.stdout
