package policy.experiment_limits_test

import data.policy.experiment_limits

params := {"experiment_limits": {
	"never": ["hiring"],
	"guardrails": ["errors"],
	"first_share_ppm": 10000,
	"unattended_share_ppm": 50000,
}}

whole := 4294967296

# A canary exposes twice the share of the new version and splits it evenly.
step(percent, approve) := {
	"exposure": floor(((whole * 2) * percent) / 100),
	"shares": {"champion": 2147483648, "challenger": 2147483648},
	"approve": approve,
}

experiment(steps) := {
	"config": {"kind": "experiment"},
	"model": {"name": "credit-risk", "risk": "high"},
	"experiment": {
		"arms": {"champion": "3", "challenger": "4"},
		"control": "champion",
		"guardrails": [{"metric": "errors"}, {"metric": "p95_ms"}],
		"breaker": {"above_ppm": 50000},
		"steps": steps,
	},
}

careful := experiment([step(1, null), step(5, "risk"), step(25, null)])

ids contains reason.id if some reason in experiment_limits.deny

patched(path, value) := json.patch(careful, [{"op": "replace", "path": path, "value": value}])

test_a_careful_experiment_may_begin if {
	experiment_limits.allow with input as careful with data.params as params
	ids == set() with input as careful with data.params as params
}

test_each_limit_is_held[name] if {
	some name, row in {
		"a model that is never experimented with": [patched("/model/name", "hiring"), "EXPERIMENT-LIMITS-1"],
		"a model without a name": [patched("/model/name", null), "EXPERIMENT-LIMITS-1"],
		"no breaker": [patched("/experiment/breaker", null), "EXPERIMENT-LIMITS-2"],
		"no guardrail on errors": [patched("/experiment/guardrails", [{"metric": "p95_ms"}]), "EXPERIMENT-LIMITS-2"],
		"a large first step": [experiment([step(2, "risk"), step(25, null)]), "EXPERIMENT-LIMITS-3"],
		"no treatment": [patched("/experiment/arms", {"champion": "3"}), "EXPERIMENT-LIMITS-3"],
		"nobody agrees": [experiment([step(1, null), step(25, null)]), "EXPERIMENT-LIMITS-4"],
		"somebody agrees too late": [experiment([step(1, null), step(25, "risk"), step(50, null)]), "EXPERIMENT-LIMITS-4"],
	}
	[asked, id] := row
	ids == {id} with input as asked with data.params as params
	experiment_limits.allow == false with input as asked with data.params as params
}

test_without_steps_nothing_is_small_or_attended if {
	ids == {"EXPERIMENT-LIMITS-3", "EXPERIMENT-LIMITS-4"} with input as experiment([]) with data.params as params
}

test_a_risk_that_nobody_declared_is_high if {
	bold := json.remove(experiment([step(25, null)]), ["/model/risk"])
	ids == {"EXPERIMENT-LIMITS-3", "EXPERIMENT-LIMITS-4"} with input as bold with data.params as params
}

test_lower_risks_may_be_bolder if {
	every risk in ["low", "medium"] {
		bold := object.union(experiment([step(25, null)]), {"model": {"name": "churn", "risk": risk}})
		experiment_limits.allow with input as bold with data.params as params
		ids == set() with input as bold with data.params as params
	}
}

test_a_shadow_may_begin_but_not_everywhere if {
	shadow := object.union(experiment([step(100, null)]), {"experiment": {"strategy": "shadow", "breaker": null}})
	experiment_limits.allow with input as shadow with data.params as params
	hiring := object.union(shadow, {"model": {"name": "hiring"}})
	ids == {"EXPERIMENT-LIMITS-1"} with input as hiring with data.params as params
}

test_models_pass_and_anything_else_does_not if {
	experiment_limits.allow with input as {"config": {"kind": "model"}} with data.params as params
	experiment_limits.allow == false with input as {} with data.params as params
	other := json.patch(careful, [{"op": "replace", "path": "/config/kind", "value": "other"}])
	experiment_limits.allow == false with input as other with data.params as params

	# what is no experiment has no reason of an experiment
	ids == set() with input as {"config": {"kind": "model"}, "model": {"name": "hiring"}} with data.params as params
}

test_without_parameters_no_experiment_begins if {
	experiment_limits.allow == false with input as careful with data.params as {}
	count(ids) == 4 with input as careful with data.params as {}
}
