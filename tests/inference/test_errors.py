"""The exception tree."""

from collections.abc import Iterator

from inference import errors


def subclasses(cls: type[Exception]) -> Iterator[type[Exception]]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def drawn_parents() -> dict[str, str]:
    """Child -> parent, as the tree in the module's docstring has them: four columns for each generation."""
    lines = (errors.__doc__ or "").splitlines()
    line_of_descent, parents = ["ShardlabelError"], {}
    for line in lines[lines.index("ShardlabelError") + 1 :]:
        depth, name = line.index("─") // 4 + 1, line.split("── ")[1].split()[0]
        line_of_descent[depth:] = [name]
        parents[name] = line_of_descent[depth - 1]
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    ours = [cls for cls in subclasses(errors.ShardlabelError) if cls.__module__ == errors.__name__]
    assert drawn_parents() == {cls.__name__: cls.__bases__[0].__name__ for cls in ours}
