"""How annotations are checked under pytest (see pyproject): beartype, an int where a float is wanted being right."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
