"""A study in SQL: create or join it, count its budget, begin and end its trials.

The contract, on SQLite and on every other database that Optuna speaks, over any number of workers:

- The SQL study is the truth. What is told stays told; MLflow and the report are made from it.
- A study belongs to one question: its fingerprint (study file, space, data and split, weights, version) is
  stored with it, and whoever comes with another one is refused and told what differs.
- The budget counts finished trials, complete or pruned. A failed trial is FAIL with its reason in the user
  attribute `failure`; it has no value and uses up no budget.
- Trial 0 is the default configuration. It carries the user attribute `default`, and so does the trial that
  takes its place where it failed.
- A trial enters the database whole, in one transaction: parameters, configuration, and `owner`, the host and
  process that runs it. Numbers are given in the order of those transactions, and a trial that began too many or is
  another one's twin is seen to be so by its number (`void_reason`): of any two, the later one yields. So the budget is
  exact without a lock. Workers take turns at beginning trials all the same (`turn`), so that this hardly ever happens.
- A trial whose worker is gone is FAIL, "worker lost", and its configuration is tried again, twice at most. One that
  was handed back, by Ctrl-C or SIGTERM, is tried again; one that failed by itself is not, but for the default.
- A finished trial is immutable: what a worker tells that was taken for dead is not heard.
- A database that is away is waited for (`patience`).
"""
