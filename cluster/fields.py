"""The fields of a cluster template: what may be set, to what, and how a mistake is told.

Values come from a command line and end in YAML, in a shell and in #SBATCH lines, so each is held to a pattern before it is put
anywhere. A default pattern allows what a shell takes as it stands; only the options of an audit are free, and those are quoted.
"""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from weakspot.cluster.storage import checked_uri
from weakspot.errors import UserError

PLAIN = r"[A-Za-z0-9@%+=:,./_-]+"  # what shlex.quote leaves alone
# Forms of keys that people paste: AWS, GitHub, Hugging Face, Google, W&B (old and new), a private key, a web token, an address
# with a password.
KEYS = re.compile(
    r"AKIA[0-9A-Z]{16}|gh[pousr]_\w{30,}|hf_\w{20,}|AIza[\w-]{30,}|\b[0-9a-f]{40}\b|wandb_v1_\w+|PRIVATE KEY|eyJ[\w-]{10,}\.eyJ"
    r"|://[^/]*:[^/]*@"
)
YES = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True)
class Field:
    """One thing of a template that can be set.

    Attributes:
        type: text, whole (a number), flag, list (with commas), storage or audit (options, as on a command line).
        default: used where nothing is given; None where something must be.
        installed: the package whose version here is the default.
        pattern: what a text, or an entry of a list, must match as a whole.
        least: the least whole number.
        under, needs: of a storage on a disk, the folder that it lies in and the field that puts a disk there.
        plain: whether the words of an audit must be such that no shell changes them, however many they pass.
    """

    name: str
    help: str
    type: str = "text"
    default: Any = None
    installed: str = ""
    pattern: str = PLAIN
    example: str = ""
    least: int = 0
    under: str = ""
    needs: str = ""
    plain: bool = False

    def parse(self, given: str) -> Any:
        """The value that a text stands for.

        Raises:
            UserError: it is none of this field.
        """
        if not given.isprintable():
            raise UserError(f"{self.name} has a line break or another control character: give one line of text")
        if KEYS.search(given):
            raise UserError(f"{self.name} looks like a key or token, which no file may hold: set it on the cluster")
        if self.type == "audit":
            return self.words(given)
        if self.type == "storage":
            return self.stored(given)
        if self.type == "flag":
            if given.lower() not in YES:
                raise self.wrong(given, "yes or no")
            return YES[given.lower()]
        if self.type == "whole":
            if not re.fullmatch(r"[0-9]{1,9}", given) or int(given) < self.least:
                raise self.wrong(given, f"a whole number from {self.least}")
            return int(given)
        if self.type == "list":
            entries = given.split(",")
            if not all(re.fullmatch(self.pattern, entry) for entry in entries):
                raise self.wrong(given, f"a list with commas such as {self.example}")
            return entries
        if not re.fullmatch(self.pattern, given) and (given or self.default != ""):
            raise self.wrong(
                given, f"text such as {self.example}" if self.example else "a word of letters, digits and @%+=:,./_-"
            )
        return given

    def words(self, given: str) -> list[str]:
        try:
            words = shlex.split(given)
        except ValueError as error:
            raise UserError(f"{self.name}={given} is no command line ({error}): close the quotation") from None
        if self.plain and (odd := next((word for word in words if not re.fullmatch(PLAIN, word)), None)):
            raise UserError(f"{self.name} has {odd!r}, which several shells would read: use letters, digits and @%+=:,./_-")
        return words

    def stored(self, given: str) -> str:
        uri = checked_uri(given)
        if not re.fullmatch(PLAIN, uri):
            raise self.wrong(given, "an address of letters, digits and @%+=:,./_-")
        if self.under and "://" not in uri and not f"{uri}/".startswith(f"{self.under}/"):
            raise UserError(
                f"{self.name}={given} is lost with the pod: give {self.under}/FOLDER with {self.needs}=..., s3://... or gs://..."
            )
        return uri

    def wrong(self, given: str, expected: str) -> UserError:
        return UserError(f"{self.name}={given!s:.60} is not {expected}: set it by --set {self.name}=...")

    def standard(self) -> Any:
        """The default.

        Raises:
            UserError: there is none.
        """
        if self.installed:
            try:
                return importlib.metadata.version(self.installed).split("+")[0]
            except importlib.metadata.PackageNotFoundError:
                raise UserError(f"{self.installed} is not installed here: say its version with --set {self.name}=...") from None
        if self.default is None:
            raise UserError(f"{self.name} is missing ({self.help}): add --set {self.name}={shlex.quote(self.example)}")
        return [] if self.type in ("audit", "list") and self.default == "" else self.default


def parse_set(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE pairs of a command line; of a name given twice the last counts.

    Raises:
        UserError: not of that form.
    """
    for pair in pairs:
        if not re.match(r"\w+=", pair):
            raise UserError(f"--set {pair}: give NAME=VALUE")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def values_of(target: str, fields: Mapping[str, Field], given: Mapping[str, str]) -> dict[str, Any]:
    """The value of every field.

    Raises:
        UserError: a name that the target does not have, a value that is none, or one that is missing.
    """
    for name in given:
        if name not in fields:
            raise UserError(f"{target} has no field {name!r}: {closest(name, fields)}")
    values = {name: field.parse(given[name]) if name in given else field.standard() for name, field in fields.items()}
    for name, field in fields.items():
        if field.needs and "://" not in values[name] and not values[field.needs]:
            raise UserError(
                f"{name}={values[name]} is lost with the pod: add --set {field.needs}=NAME, or give s3://... or gs://..."
            )
    return values


def closest(name: str, known: Mapping[str, Any]) -> str:
    """What may have been meant, and what there is."""
    near = get_close_matches(name, known, 1, 0.5)
    return f"{f'did you mean {near[0]}? ' if near else ''}known are {', '.join(known)}"
