"""The study in SQL, for any number of workers.

The contract, on SQLite and on every other database that Optuna supports:

- The SQL study is the only source of truth. What is in it stays; MLflow and the report are made from it.
- A study answers one question. Its fingerprint (study file, space, data and split, weights, recipes) is stored with
  it, and a worker with another fingerprint is refused with a sentence that names the difference.
- The budget counts finished trials: complete or pruned. A failed trial is FAIL, with its reason in the user attribute
  `failure`; it has no value and uses up no budget.
- Trial 0 is the default configuration. It has the user attribute `default`, and so has the trial that replaces it if
  it failed.
- The configurations of earlier studies that a study runs early are chosen when it begins and stored with it, so that
  all workers have the same ones. Such a trial has the user attribute `origin`.
- A trial is created in one transaction with its parameters, its configuration and its `owner`, the host and process
  that runs it. Trial numbers follow the order of these transactions. After creating a trial, a worker checks by number
  whether the budget was already spent or an earlier trial has the same configuration (`void_reason`); if so, the later
  trial is failed without running. So the budget is exact without a lock. Workers take a lock to create trials all the
  same (`ask_lock`), so that this hardly ever happens.
- A trial whose worker is gone is FAIL, "worker lost", and its configuration is tried again, twice at most. A trial that
  was handed back after Ctrl-C or SIGTERM is tried again. A trial that failed by itself is not, except the default.
- A finished trial is immutable: a worker that was presumed dead can no longer change its trial.
- Database calls are retried while the database is unavailable (`retry`).
"""
