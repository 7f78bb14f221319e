package policy.fairness_report_test

import data.policy.fairness_report

figures(n, ratio, upper) := {"n": n, "ratio": ratio, "ratio_upper": upper}

good := {"sex": {"female": figures(900, 0.95, 0.99), "male": figures(1000, 1, 1)}}

params(report) := {"fairness_report": {
	"models": ["credit-risk"],
	"attributes": ["sex"],
	"smallest_group": 100,
	"lowest_ratio": 0.8,
	"reports": {"sha256:aa": report},
}}

call := {"model": {"name": "credit-risk", "digest": "sha256:aa"}}

denied contains reason.id if some reason in fairness_report.deny

warned contains reason.id if some reason in fairness_report.warn

test_a_good_report_is_enough if {
	fairness_report.allow with input as call with data.params as params(good)
	denied == set() with input as call with data.params as params(good)
	warned == set() with input as call with data.params as params(good)
}

test_a_group_that_is_proven_too_low_refuses if {
	low := {"sex": {"female": figures(900, 0.6, 0.79), "male": figures(1000, 1, 1)}}
	denied == {"FAIRNESS-REPORT-1"} with input as call with data.params as params(low)
	warned == set() with input as call with data.params as params(low)
	fairness_report.allow == false with input as call with data.params as params(low)
}

test_attributes_nobody_asked_for_are_not_judged if {
	others := {"hair": {"red": figures(900, 0.1, 0.2), "grey": figures(900, 0.7, 0.9), "blue": figures(9, 1, 1)}}
	more := object.union(good, others)
	fairness_report.allow with input as call with data.params as params(more)
	denied == set() with input as call with data.params as params(more)
	warned == set() with input as call with data.params as params(more)
}

test_a_report_is_needed_even_where_no_attribute_is_asked_for if {
	nothing := json.patch(params(good), [{"op": "replace", "path": "/fairness_report/attributes", "value": []}])
	other := {"model": {"name": "credit-risk", "digest": "sha256:bb"}}
	fairness_report.allow == false with input as other with data.params as nothing
}

test_the_limit_itself_is_fair if {
	edge := {"sex": {"female": figures(900, 0.8, 0.8)}}
	fairness_report.allow with input as call with data.params as params(edge)
	warned == set() with input as call with data.params as params(edge)
}

test_what_is_likely_but_not_proven_warns if {
	likely := {"sex": {"female": figures(900, 0.7, 0.85), "male": figures(1000, 1, 1)}}
	fairness_report.allow with input as call with data.params as params(likely)
	warned == {"FAIRNESS-REPORT-4"} with input as call with data.params as params(likely)
}

test_a_small_group_is_not_judged_but_told if {
	small := {"sex": {"female": figures(99, 0.1, 0.2), "male": figures(1000, 1, 1)}}
	fairness_report.allow with input as call with data.params as params(small)
	warned == {"FAIRNESS-REPORT-5"} with input as call with data.params as params(small)
	wide := {"sex": {"female": figures(99, 0.5, 0.9)}}
	warned == {"FAIRNESS-REPORT-5"} with input as call with data.params as params(wide)
	large := {"sex": {"female": figures(100, 0.1, 0.2)}}
	denied == {"FAIRNESS-REPORT-1"} with input as call with data.params as params(large)
}

test_a_figure_that_is_no_number_is_not_fair[name] if {
	some name, wrong in {
		"text": figures(900, 0.9, "0.9"),
		"null": figures(null, 0.9, 0.9),
		"nothing": {"n": 900},
		"no number of people": {"ratio": 0.9, "ratio_upper": 0.9},
	}
	denied == {"FAIRNESS-REPORT-1"} with input as call with data.params as params({"sex": {"female": wrong}})
}

test_a_report_is_about_one_digest if {
	other := {"model": {"name": "credit-risk", "digest": "sha256:bb"}}
	denied == {"FAIRNESS-REPORT-2"} with input as other with data.params as params(good)
	fairness_report.allow == false with input as other with data.params as params(good)
}

test_every_attribute_has_to_be_in_the_report if {
	denied == {"FAIRNESS-REPORT-3"} with input as call with data.params as params({"age": good.sex})
	fairness_report.allow == false with input as call with data.params as params({"age": good.sex})
	denied == {"FAIRNESS-REPORT-3"} with input as call with data.params as params({"sex": "good"})
}

test_other_models_are_not_concerned if {
	other := {"model": {"name": "churn", "digest": "sha256:bb"}}
	fairness_report.allow with input as other with data.params as params(good)
	denied == set() with input as other with data.params as params(good)

	# not even by a bad report under their digest
	bad := {"model": {"name": "churn", "digest": "sha256:aa"}}
	low := {"sex": {"female": figures(900, 0.6, 0.7)}, "age": {"old": figures(900, 0.7, 0.9), "young": figures(9, 1, 1)}}
	every report in [low, {"sex": {"a": figures(900, 0.7, 0.9), "b": figures(9, 1, 1)}}, {}] {
		denied == set() with input as bad with data.params as params(report)
		warned == set() with input as bad with data.params as params(report)
	}
}

test_without_parameters_everything_is_refused if {
	denied == {"FAIRNESS-REPORT-2"} with input as call with data.params as {}
	fairness_report.allow == false with input as call with data.params as {}
	fairness_report.allow == false with input as {} with data.params as params(good)
}

test_settings_without_a_limit_let_nothing_pass if {
	bare := json.remove(params(good), ["/fairness_report/lowest_ratio"])
	fairness_report.allow == false with input as call with data.params as bare
	nobody := json.remove(params({"sex": {}}), ["/fairness_report/lowest_ratio"])
	fairness_report.allow == false with input as call with data.params as nobody
	all_models := json.remove(params(good), ["/fairness_report/models"])
	other := {"model": {"name": "churn", "digest": "sha256:bb"}}
	fairness_report.allow == false with input as other with data.params as all_models
}
