"""Labels: how tables, plots and the page name measurements and units.

Records and leaderboard.csv use keys, as fid[digits-cnn]; readers see labels, as FID (digits-cnn). A measurement without
an entry here is labelled by its key, with acronyms in capitals.
"""

from __future__ import annotations

LABELS = {  # by key, without the network in brackets
    # likelihood
    "nats": "NLL",
    "bpd": "bits/dim",
    "excess_nats": "excess NLL",
    "ais_nats": "AIS NLL",
    "ais_bpd": "AIS bits/dim",
    "ais_gap_nats": "AIS gap",
    "amortisation_gap": "amortization gap",
    # samples
    "inception_score": "IS",
    "fid_infinity": "FID infinity",
    "cas_real": "CAS of real data",
    "cas_misspelled": "misspelled labels",
    "nearer_than_new": "memorization AUC",
    "kl_data_model": "forward KL",
    "kl_model_data": "reverse KL",
    "jensen_shannon": "JS divergence",
    "high_quality": "high-quality samples",
    # representations
    "zero_shot_accuracy": "zero-shot accuracy",
    "retrieval_map": "retrieval mAP",
    "gradient_variance_log_derivative": "gradient variance, log-derivative",
    "gradient_variance_log_derivative_baseline": "gradient variance, log-derivative with baseline",
    "gradient_variance_reparameterised": "gradient variance, reparameterized",
}

UNITS = {  # by unit in records; "": the label or the values say it
    "of points": "fraction",
    "of samples": "fraction",
    "evaluations": "",
    "bytes": "",
}

ACRONYMS = {  # words of keys
    **{word: word.upper() for word in ("ais", "ari", "auc", "auroc", "cas", "elbo", "fid", "kid", "kl", "mse")},
    **{word: word.upper() for word in ("nfe", "nll", "nmi", "pca", "psnr", "roc", "ssim", "w1")},
}


def measurement_label(key: str) -> str:
    """Return the label of a measurement: "FID (digits-cnn)" for fid[digits-cnn], "NFE density" for nfe_density."""
    network = network_of(key)
    return f"{name_label(key)} ({network})" if network else name_label(key)


def name_label(key: str) -> str:
    """Return the label of a measurement without its network: "FID" for fid[digits-cnn]."""
    name = measurement_name(key)
    return LABELS.get(name) or " ".join(ACRONYMS.get(word, word) for word in name.split("_"))


def measurement_name(key: str) -> str:
    """Return a key without its network: fid for fid[digits-cnn]."""
    network = network_of(key)
    return key.removesuffix(f"[{network}]") if network else key


def network_of(key: str) -> str:
    """Return the network whose features a measurement uses: digits-cnn for fid[digits-cnn]; "" without one."""
    name, _, rest = key.partition("[")
    return rest.removesuffix("]") if name and rest.endswith("]") else ""


def unit_label(unit: str, label: str) -> str:
    """Return the label of a unit next to the `label` of its measurement; "" if that already contains it."""
    unit = UNITS.get(unit, unit)
    return "" if unit in label.split(" ") else unit
