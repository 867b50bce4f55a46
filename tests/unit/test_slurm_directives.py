"""A script's directives and set-up: what sbatch would drop in silence is refused with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.request import Per
from pyfi_hpc.slurm.request.asking import settled
from pyfi_hpc.slurm.request.directives import read_script

SCRIPT = """#!/bin/bash -l
# what we ask for
#SBATCH --partition=gpu --time=2:00:00   # two hours
#SBATCH -N2 --comment="two words"
##SBATCH --mem=1G
# SBATCH --mem=2G

#PYFI --processor=detect --per gpu
#PYFI --drain-before=300

module load cuda  # a comment
export OMP_NUM_THREADS=4
"""


def refusal(*lines: str, first: str = "#!/bin/bash") -> BadInput:
    with pytest.raises(BadInput) as caught:
        read_script("\n".join([first, *lines]) + "\n", "train.sh")
    return caught.value


def test_directives_are_read_and_the_rest_is_the_set_up() -> None:
    script = read_script(SCRIPT, "train.sh")
    asked = settled([script.sbatch, script.pyfi], script.setup)
    request = asked.request
    assert (request.partition, request.time_minutes, request.nodes) == ("gpu", 120, 2)
    assert (request.comment, request.mem, request.per, request.signal_seconds) == ("two words", None, Per.GPU, 300)
    assert asked.processor == "detect"
    assert asked.origins["nodes"] == "train.sh line 4" and asked.origins["per"] == "train.sh line 8"
    assert "#SBATCH --part" not in script.setup and "#PYFI" not in script.setup
    assert script.setup.startswith("#!/bin/bash -l\n")
    assert "module load cuda  # a comment\nexport OMP_NUM_THREADS=4\n" in script.setup


def test_a_script_of_directives_alone_has_no_set_up() -> None:
    assert read_script("#!/bin/bash\n#SBATCH -n4\n\n# nothing more\n", "train.sh").setup == ""
    assert read_script("#!/bin/bash -l\n#SBATCH -n4\n", "train.sh").setup == "#!/bin/bash -l\n"


def test_a_directive_behind_the_first_command_is_refused_with_both_lines() -> None:
    error = refusal("#SBATCH -n4", "", "module load cuda", "# more", "#SBATCH --gpus=4")
    assert str(error) == (
        "train.sh line 6: '#SBATCH --gpus=4' comes after the first command (E_DIRECTIVE)\n"
        "  at:  line 4 'module load cuda' ended the directives\n"
        "  try: move line 6 above line 4"
    )


def test_a_late_line_of_ours_is_refused_too() -> None:
    assert "comes after the first command" in refusal("date", "#PYFI --per=gpu").what


@pytest.mark.parametrize(
    ("line", "what", "cure"),
    [
        ("#SBATCH --tme=5", "no option '--tme'", "did you mean --time?"),
        ("#SBATCH --processor=p", "--processor is pyfi's own option", "write it in a line that begins with #PYFI"),
        ("#PYFI --procesor=p", "no option '--procesor'", "did you mean --processor?"),
        ("#sbatch --mem=4G", "no directive #sbatch", "did you mean #SBATCH?"),
        ("#SBTACH --mem=4G", "no directive #SBTACH", "did you mean #SBATCH?"),
        ("#PYFY --per=gpu", "no directive #PYFY", "did you mean #PYFI?"),
        ("  #SBATCH --mem=4G", "a directive begins its line",
         "take away the blanks before it, or write ## to switch it off"),
        ("#PBS -l nodes=2", "directives of another system, #PBS, are not read", "write it as #SBATCH"),
        ("#SBATCH --comment='open", "the quotes of the line do not fit: No closing quotation", None),
        ("#SBATCH two words", "'two' is no option", "a value with blanks is put in quotes"),
    ],
)  # fmt: skip
def test_what_sbatch_would_take_for_a_comment_or_refuse_is_refused(line: str, what: str, cure: str | None) -> None:
    error = refusal("#SBATCH -n4", line)
    assert (error.code, error.what, error.cure) == ("E_DIRECTIVE", what, cure)
    assert (error.at or "").startswith("train.sh line 3")


def test_a_bad_value_is_refused_by_its_own_code_with_the_line() -> None:
    error = refusal("#SBATCH -n4", "#SBATCH --time=25:61")
    assert (error.code, error.at) == ("E_TIME_FORMAT", "train.sh line 3: --time 25:61")


@pytest.mark.parametrize("first", ["", "module load cuda", " #!/bin/bash", "#SBATCH -n4"])
def test_a_script_begins_with_its_shell(first: str) -> None:
    error = refusal("#SBATCH -n4", first=first)
    assert error.code == "E_DIRECTIVE" and error.cure == "make its first line #!/bin/bash"


def test_line_ends_of_another_system_are_refused() -> None:
    error = refusal("#SBATCH -n4\r", "date\r")
    assert (error.code, error.at, error.cure) == ("E_DIRECTIVE", "line 2", "dos2unix train.sh")


def test_text_that_a_script_writes_elsewhere_is_no_directive_of_its_own() -> None:
    script = read_script("#!/bin/bash\ncat > x.sh <<'EOF'\n#SBATCH -n4\nEOF\ncat <<-END\n\t#SBATCH\n\tEND\n", "t.sh")
    assert not script.sbatch and script.setup.count("#SBATCH") == 2


def test_words_that_only_look_like_directives_stay_comments() -> None:
    script = read_script("#!/bin/bash\n#SBATCHES are many\n# -n 4\n#note -- this\n#options -n\ndate\n", "t.sh")
    assert not script.sbatch and "#SBATCHES are many" in script.setup


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=8))
def test_any_text_is_a_script_or_refused(lines: list[str]) -> None:
    text = "\n".join(["#!/bin/bash", *lines])
    try:
        script = read_script(text, "t.sh")
    except BadInput as error:
        assert error.code in ("E_DIRECTIVE", "E_USAGE", "E_RANGE", "E_TIME_FORMAT", "E_CHOICE", "E_ARGUMENT")
    else:
        # nothing is lost but directives
        assert script.setup == "" or set(script.setup.split("\n")) <= {*text.split("\n"), ""}
