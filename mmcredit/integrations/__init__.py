"""Our credit in trainers of other people: `trl` (a GRPOTrainer that takes our `credit:` list) and `verl` (advantage
estimators). The rest of the package imports neither; each needs the library that it plugs into."""
