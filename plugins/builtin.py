"""What recbole-llm itself offers: models, datasets, reducers and metrics, through the same hooks as anybody's."""

from recbole_llm import hookimpl, metrics

HOOK_API = 1

_ENCODERS = "recbole_llm.models.session_encoders"
HYBRIDS = ("SimSequential", "SimPopularity", "SimDiversity", "EmbeddingEnsemble")
MODELS = {
    "SASRec": f"{_ENCODERS}.sasrec:SASRec",
    "GRU4Rec": f"{_ENCODERS}.gru4rec:GRU4Rec",
    "BERT4Rec": f"{_ENCODERS}.bert4rec:BERT4Rec",
    "GCSAN": f"{_ENCODERS}.gcsan:GCSAN",
    "NISER": f"{_ENCODERS}.niser:NISER",
    "SRGNN": f"{_ENCODERS}.srgnn:SRGNN",
    "TAGNN": f"{_ENCODERS}.tagnn:TAGNN",
    "GCEGNN": f"{_ENCODERS}.gcegnn:GCEGNN",
    "DHCN": f"{_ENCODERS}.dhcn:DHCN",
    "MSGAT": f"{_ENCODERS}.msgat:MSGAT",
    "NARM": f"{_ENCODERS}.narm:NARM",
    "STAMP": f"{_ENCODERS}.stamp:STAMP",
    "SemSR": "recbole_llm.models.semsr:SemSR",
    "SemNISER": "recbole_llm.models.semsr:SemNISER",
    "LLM2Seq": "recbole_llm.models.llm2seq:LLM2Seq",
    "LLM2SASRec": "recbole_llm.models.llm2seq:LLM2SASRec",
    "LLM2BERT4Rec": "recbole_llm.models.llm2seq:LLM2BERT4Rec",
    "LLM2GRU4Rec": "recbole_llm.models.llm2seq:LLM2GRU4Rec",
    "LLM4SBR": "recbole_llm.models.llm4sbr:LLM4SBR",
    "LaMARLLM": "recbole_llm.models.lamar_llm:LaMARLLM",
    "LLMInfer": "recbole_llm.models.llm4sbr:LLMInfer",
    "LLMGR": "recbole_llm.models.llmgr:LLMGR",
    "Rerank": "recbole_llm.models.composites:Rerank",
    **{name: f"recbole_llm.models.hybrids:{name}" for name in HYBRIDS},
    "RecFormer": "recbole_llm.models.recformer:RecFormer",
    "Mixture": "recbole_llm.models.mixture:Mixture",
    "SemMSGAT": "recbole_llm.models.semsr:SemMSGAT",
    "MostPopular": "recbole_llm.models.counting:MostPopular",
    "CoVisit": "recbole_llm.models.counting:CoVisit",
    "LLMSeqSim": "recbole_llm.models.similarity:LLMSeqSim",
    "TextKNN": "recbole_llm.models.similarity:TextKNN",
    "SKNN": "recbole_llm.models.neighbourhood:SKNN",
    "VSKNN": "recbole_llm.models.neighbourhood:VSKNN",
    "SSKNN": "recbole_llm.models.neighbourhood:SSKNN",
    "SFSKNN": "recbole_llm.models.neighbourhood:SFSKNN",
    "SKNNEmb": "recbole_llm.models.neighbourhood_text:SKNNEmb",
    **{name: f"recbole_llm.models.prompted:{name}" for name in ("FewShotLLM", "ZeroShotCoTLLM", "FewShotCoTLLM")},
    **{name: f"recbole_llm.models.answered:{name}" for name in ("GenItem", "GenList", "ClassPrompt", "RankPrompt")},
}
_DATASETS = "recbole_llm.datasets"
DATASETS = {
    "amazon-beauty": f"{_DATASETS}.amazon2014:AmazonBeauty",
    "amazon-beauty-onepass": f"{_DATASETS}.amazon2014:AmazonBeautyOnePass",
    "amazon-musical-instruments": f"{_DATASETS}.amazon2018:AmazonMusic",
    "amazon-luxury-beauty": f"{_DATASETS}.amazon2018:AmazonLuxury",
    "amazon-prime-pantry": f"{_DATASETS}.amazon2018:AmazonPantry",
    "lamar-scientific": f"{_DATASETS}.amazon2018:LaMARScientific",
    "lamar-instruments": f"{_DATASETS}.amazon2018:LaMARInstruments",
    "lamar-arts": f"{_DATASETS}.amazon2018:LaMARArts",
    "lamar-office": f"{_DATASETS}.amazon2018:LaMAROffice",
    "lamar-games": f"{_DATASETS}.amazon2018:LaMARGames",
    "lamar-pet": f"{_DATASETS}.amazon2018:LaMARPet",
    "ml-1m": f"{_DATASETS}.movielens:MovieLens1M",
    "ml-1m-10min": f"{_DATASETS}.movielens:MovieLens1M10Min",
    "ml-100k": f"{_DATASETS}.movielens:MovieLens100K",
    "steam": f"{_DATASETS}.steam:Steam",
    "amazon-m2-uk": f"{_DATASETS}.amazon_m2:AmazonM2UK",
    "csv": f"{_DATASETS}.csv_source:Csv",
    "toy": "recbole_llm.testing.planted:Planted",
}
_REDUCE = "recbole_llm.text.reduce"
REDUCERS = {
    "none": f"{_REDUCE}:NoReducer",
    "pca": f"{_REDUCE}:PCA",
    "lda": f"{_REDUCE}:LDA",
    "random_projection": f"{_REDUCE}:RandomProjection",
    "autoencoder": "recbole_llm.text.autoencoder:LinearAutoencoder",
}


@hookimpl
def register_models(register):
    for name, target in MODELS.items():
        register(name, target)


@hookimpl
def register_datasets(register):
    for name, target in DATASETS.items():
        register(name, target)


@hookimpl
def register_reducers(register):
    for name, target in REDUCERS.items():
        register(name, target)


@hookimpl
def register_metrics(register):
    for metric in metrics.ALL:
        register(metric)
