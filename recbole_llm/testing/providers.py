"""What the contracts of encoders and generators share: how a provider is built, and what it declares."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar
from unittest import mock

import pytest

from recbole_llm.errors import UserError
from recbole_llm.settings import option_keys, provider_options

_METADATA = {"help", "choices", "range"}
_SECRET = "s3cret-that-must-not-be-kept"


class ProviderContract:
    """Set what :class:`.encoders.EncoderContract` or :class:`.generators.GeneratorContract` says.

    Attributes:
        prefix: of the keys that the options become.
        effect: what ``changes`` change.
    """

    prefix: ClassVar[str]
    effect: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    changes: ClassVar[Mapping[str, Any]] = {}

    def provider_class(self) -> Any:
        """The class under test."""
        raise NotImplementedError

    def make(self, **changed: Any) -> Any:
        """A provider built as the house builds it, from flat keys."""
        config = {f"{self.prefix}_{k}": v for k, v in {**self.options, **changed}.items()}
        kind = self.provider_class()
        return kind(provider_options(kind, self.prefix, config))

    def test_fingerprint_names_what_changes_its_output(self) -> None:
        seen = [self.make().fingerprint()]
        for option, value in self.changes.items():
            changed = self.make(**{option: value}).fingerprint()
            assert changed not in seen, (
                f"{self.prefix}_{option}={value!r} changes {self.effect}, yet not the fingerprint"
            )
            seen.append(changed)

    def test_fingerprint_holds_no_secret(self) -> None:
        options = dataclasses.asdict(self.make().options)
        variables = {v: _SECRET for k, v in options.items() if k.endswith("_env") and isinstance(v, str)}
        with mock.patch.dict(os.environ, variables):
            provider = self.make()
            kept = json.dumps([provider.fingerprint(), dataclasses.asdict(provider.options)], default=repr)
        assert _SECRET not in kept

    def test_options_are_typed_and_explained(self) -> None:
        kind = self.provider_class()
        assert dataclasses.is_dataclass(kind.Options)
        fields = {f"{self.prefix}_{f.name}": f for f in dataclasses.fields(kind.Options)}
        for key in option_keys(kind, self.prefix, "provider", ""):
            field = fields[key.name]
            assert "any" not in key.kind.types, f"{key.name}: the house cannot check its annotation {field.type!r}"
            assert key.kind.fault(key.default) is None, f"{key.name}: its default breaks its own rule"
            assert set(field.metadata) <= _METADATA, f"{key.name}: only {sorted(_METADATA)} are understood"
            assert key.help, f"{key.name}: it has no help text"
            secret = key.name.endswith(("_key", "_password", "_secret", "_token"))
            assert not secret, f"{key.name}: take the name of an environment variable instead of a secret"

    def test_a_wrong_option_is_refused(self) -> None:
        wrong: Any = object()
        for field in dataclasses.fields(self.provider_class().Options):
            with pytest.raises(UserError, match=f"{self.prefix}_{field.name}"):
                self.make(**{field.name: wrong})
