"""What a run keeps so that its model can read intents of sessions it never saw, and making those."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from recbole_llm import paths
from recbole_llm.bridge.intents import IntentMaker, about_prompt, maker_class
from recbole_llm.errors import UserError
from recbole_llm.evidence.run_folder import DAMAGED, SETTINGS
from recbole_llm.files import whole_file, write_json
from recbole_llm.models.inputs import Intents, Lists
from recbole_llm.plugins import PluginHouse
from recbole_llm.text import generation
from recbole_llm.text.item_matrix import encoder_source
from recbole_llm.text.recipes import RecipeContext
from recbole_llm.text.session_facts import Categories
from recbole_llm.text.vector_store import VectorStore
from recbole_llm.values import read_yaml

CATALOGUE, NAMES = "intents.safetensors", "intents.json"


def keep_catalogue(folder: Path, intents: Intents | Lists) -> None:
    """Writes the items' names and their vectors into a run folder, and of lists what else their items come from."""
    arrays = {"catalogue": np.ascontiguousarray(intents.catalogue, np.float32)}
    if isinstance(intents, Lists):
        arrays["clicks"] = np.ascontiguousarray(intents.clicks, np.int64)
        if intents.categories is not None:
            arrays |= {"categories": intents.categories.items, "centroids": intents.categories.centroids}
    with whole_file(folder / CATALOGUE, binary=True) as f:
        f.write(save(arrays))
    write_json(folder / NAMES, {"names": list(intents.names), "examples": intents.info.get("examples", [])})


class NewSessions:
    """Intents of sessions given by hand, through the recipe, generator and encoder of a run.

    Args:
        folder: the run's.
        said: what its manifest says of its intents.
        tokens: by item id.
    """

    def __init__(self, folder: Path, config: Any, said: Mapping[str, Any], tokens: Sequence[str], plugins: PluginHouse):
        self.folder, self.config, self.said, self.tokens, self.plugins = folder, config, said, tokens, plugins
        self.views = tuple(said["views"])
        self._maker: IntentMaker | None = None

    def unknown(self) -> Intents | Lists:
        """Intents, or lists, of no session, to build the model with."""
        if "lists" in self.said:
            return Lists(np.zeros((1, 1), np.int64))
        width = int(self.said["width"])
        return Intents(np.zeros((1, width), np.float32), np.zeros((1, len(self.views)), np.int64), self.views)

    def of(self, sessions: Sequence[Sequence[int]], call_remote: bool) -> Intents | Lists:
        """The intents, or lists, of sessions given as item ids; session ``n`` is number ``n + 1``.

        Raises:
            UserError: the generator or encoder is remote, something is not stored, and ``call_remote`` is not set; or
                they are not what the run was trained with.
        """
        maker = self._made()
        clicks = [np.asarray(s, np.int64) for s in sessions]
        return maker.as_inputs(maker.make(clicks, allow_remote=call_remote, progress=False))

    def _place(self) -> Path:
        """Where answers and vectors lie: with the run's dataset, else with the one of that name here, else in it."""
        then = read_yaml(self.folder / SETTINGS).get("data_path")
        here = paths.dataset_dir(self.config["dataset"], None)
        return next((p for p in ([Path(str(then))] if then else []) + [here] if p.is_dir()), self.folder)

    def _made(self) -> IntentMaker:
        if self._maker is None:
            config, said = self.config, self.said
            if said.get("control"):
                raise UserError(
                    f"{self.folder.name} is a control (text_control: {said['control']}): its intents have the vectors "
                    "of others, and those of new sessions have none.",
                    "Use the run with the true intents.",
                )
            if config["save_vectors"] != "copy":
                raise UserError(
                    f"{self.folder.name} keeps no item names and vectors (save_vectors: hash), which intents of new "
                    "sessions are looked up in.",
                    "Run with --save_vectors=copy to make the folder self-contained.",
                )
            try:
                arrays = load_file(self.folder / CATALOGUE)
                catalogue = arrays.pop("catalogue")
                kept = json.loads((self.folder / NAMES).read_text(encoding="utf-8"))
            except (OSError, ValueError, KeyError, SafetensorError) as e:
                raise UserError(f"The item names of {self.folder} cannot be read: {e}.", DAMAGED) from None
            recipe, prompt = generation.recipe_of(said["recipe"], config, self.plugins)
            recipe.views = self.views  # type: ignore[misc]
            generator, source = generation.generator_source(config, self.plugins), encoder_source(config, self.plugins)
            now = {"generator": generator.fingerprint, "encoder": source.fingerprint, "prompt": about_prompt(prompt)}
            then = {
                "generator": said["generator"]["fingerprint"],
                "encoder": said["encoder_fingerprint"],
                "prompt": said["prompt"],
            }
            for what, fingerprint in now.items():
                if fingerprint != then[what]:
                    raise UserError(
                        f"The {what} of {self.folder.name} is not what it was trained with: {fingerprint}, not "
                        f"{then[what]}.",
                        "Install what the run's manifest.json names.",
                    )
            place = self._place()
            examples = kept["examples"]
            context = RecipeContext(
                config["dataset"], tuple(said["fields"]), {}, prompt, lambda n, seed: examples[:n] if examples else []
            )
            store = VectorStore(place, source.name, source.fingerprint)
            clicks = arrays.pop("clicks", np.zeros(len(self.tokens), np.int64))
            more: dict[str, Any] = {}
            if "categories" in arrays:
                more["categories"] = Categories(arrays["categories"], arrays["centroids"])
            self._maker = maker_class(config.model_class)(
                config, said["recipe"], recipe, prompt, generator, source, place, config["dataset"],
                self.tokens, kept["names"], catalogue, clicks, store, context,
                mend="Add --call-remote (call_remote=True) to ask about these sessions.", **more,
            )  # fmt: skip
        return self._maker
