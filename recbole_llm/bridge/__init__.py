"""The only room that subclasses RecBole's Config, Dataset, DataLoader, Trainer, Collector and HyperTuning.

RecBole's habits are kept; what breaks in it is answered by a subclass, never by a patch.
"""

from recbole_llm.requirements import require_recbole

require_recbole()
