import pytest

from posthouse.problems import Problem, ProblemError, problem


def test_a_problem_says_where_what_and_what_to_do() -> None:
    assert (
        str(Problem("id", "It is wrong.", "Mend it.", "posthouse.toml:3")) == "posthouse.toml:3: It is wrong. Mend it."
    )
    assert str(Problem("id", "It is wrong.")) == "It is wrong."


def test_all_problems_are_told_at_once() -> None:
    error = ProblemError(Problem("a", "One."), Problem("b", "Two."), status=64)
    assert str(error) == "One.; Two."
    assert ([each.id for each in error.problems], error.status) == (["a", "b"], 64)


def test_a_single_problem_is_raised_in_a_line() -> None:
    with pytest.raises(ProblemError, match=r"a\.toml: It is wrong\. Mend it\.") as raised:
        raise problem("it.is-wrong", "It is wrong.", "Mend it.", where="a.toml", status=75)
    assert raised.value.problems == (Problem("it.is-wrong", "It is wrong.", "Mend it.", "a.toml"),)
    assert raised.value.status == 75


def test_a_problem_needs_a_person_unless_it_says_otherwise() -> None:
    assert problem("id", "It is wrong.").status == 1
