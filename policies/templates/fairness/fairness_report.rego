# METADATA
# title: Only versions with a good fairness report serve
# description: >-
#   A version of a listed model serves only with a fairness report for exactly its digest, on every attribute asked for, in which no group
#   that is large enough is proven to be selected too rarely. What is only likely, or too small to tell, is a warning.
# custom: {points: [request], mode: dryrun} # dryrun refuses nothing and is recorded; then warn, then enforce
package policy.fairness_report

# Settings and reports stand in params.yaml. A report is filed under the digest of the version it is about: a new version needs a new one.
settings := data.params.fairness_report

report := settings.reports[input.model.digest]

# A model that is not listed is not concerned. Without a list every model is.
concerned if is_listed

concerned if not has_list

is_listed if input.model.name in settings.models

has_list if is_array(settings.models)

missing contains attribute if {
	some attribute in settings.attributes
	not has_attribute(attribute)
}

has_attribute(attribute) if is_object(report[attribute])

# The impact ratio is the group's rate of good outcomes divided by that of the best group. It is too low when even the upper end of its
# interval is: then it is proven. A figure that is missing or no number is no proof of anything good.
too_low contains {"attribute": attribute, "group": group} if {
	some attribute in settings.attributes
	some group, figures in report[attribute]
	not is_small(figures)
	not is_fair(figures)
}

is_small(figures) if {
	is_number(figures.n)
	figures.n < settings.smallest_group
}

is_fair(figures) if {
	is_number(figures.n)
	is_number(figures.ratio_upper)
	figures.ratio_upper >= settings.lowest_ratio
}

default allow := false

allow if {
	is_string(input.model.name)
	not concerned
}

allow if {
	count(missing) == 0
	count(too_low) == 0
	report
	settings.lowest_ratio > 0
}

deny contains {"id": "FAIRNESS-REPORT-1", "msg": msg} if {
	concerned
	some found in too_low
	msg := sprintf("`%s` of `%s`: the impact ratio is below `%v`, and that is proven", [found.group, found.attribute, settings.lowest_ratio])
}

deny contains {"id": "FAIRNESS-REPORT-2", "msg": "there is no fairness report for this digest"} if {
	concerned
	not report
}

deny contains {"id": "FAIRNESS-REPORT-3", "msg": sprintf("the fairness report has no `%s`", [attribute])} if {
	concerned
	report
	some attribute in missing
}

warn contains {"id": "FAIRNESS-REPORT-4", "msg": sprintf("`%s` of `%s`: the impact ratio is low, not yet proven", [group, attribute])} if {
	concerned
	some attribute in settings.attributes
	some group, figures in report[attribute]
	not is_small(figures)
	is_fair(figures)
	figures.ratio < settings.lowest_ratio
}

warn contains {"id": "FAIRNESS-REPORT-5", "msg": sprintf("`%s` of `%s` is too small to judge", [group, attribute])} if {
	concerned
	some attribute in settings.attributes
	some group, figures in report[attribute]
	is_small(figures)
}
