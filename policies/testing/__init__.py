"""Tests of policies: rules named `test_*`, and cases in YAML for people who do not write Rego.

- `discover.py`: which tests there are. `cases.py`: the YAML form.
- `run.py`: runs them; outcome, time, and of a failure the explanation.
- `coverage.py`: lines and rules no test reached. `mutation.py`: rules and expressions whose removal no test notices.
- `report.py`: all of it together, as JSON and JUnit. `screen.py`: for people.
"""
