"""How ensembles of classifiers and their members are named, by the loss of the members."""

FAMILIES = {
    "margin": "leaveout",  # each leaves classes out and is unsure about them: the paper's
    "plain": "leaveout_plain",  # each leaves classes out
    "full": "deep_ensemble",  # each knows all classes, and they differ by their initial weights
}
