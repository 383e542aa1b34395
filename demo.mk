# The demo: every stage of the way on a simulated cohort. Each target is a file, so that a second call does only what is missing.
CS := $(BIN)/crosssuck
D := data/demo
RUNS := demo_v4_center demo_v4_roi demo_v4b_roi
DONE := $(RUNS:%=runs/%/s42/DONE)
P := $(D)/pages
PAGES := $(RUNS:%=$(P)/%/evaluate/report.html) $(RUNS:%=$(P)/%/calibrate/calibration.html) $(RUNS:%=$(P)/%/confounds/confounds.html) $(P)/compare/comparison.html
SAY := printf '\n\033[1m%s\033[0m\n'
export OMP_NUM_THREADS ?= 1

demo: reports/index.html
	@echo; $(BIN)/python -c "from crosssuck.experiments import collect_runs, score_lines; t = collect_runs('runs'); s = score_lines(t); print((s if len(s) else t[['run', 'state', 'stale']]).to_string(index=False))"
	@echo; echo "The lab report of a simulated cohort: open  $(CURDIR)/reports/index.html"

clean-demo:
	rm -rf $(D) $(RUNS:%=runs/%) reports/*.html

$(D)/cohort/simulation.json: | $(INSTALLED)
	@$(SAY) "simulate: six pens, four cameras each"
	$(CS) simulate $(D)/cohort --demo --seed 1

$(D)/manifest/events.csv: $(D)/cohort/simulation.json
	@$(SAY) "manifest: the annotators' workbook becomes events"
	$(CS) manifest $(D)/cohort/workbook.xlsx --out $(D)/manifest

$(D)/inventory.csv: $(D)/cohort/simulation.json
	@$(SAY) "scan: what is on the video drive"
	$(CS) scan $(D)/cohort/videos --out $@

$(D)/linked.csv: $(D)/manifest/events.csv $(D)/inventory.csv
	@$(SAY) "link: each event to camera - file - offset"
	$(CS) link $(D)/manifest/events.csv $(D)/inventory.csv --cameras $(D)/cohort/cameras.yaml --out $@

$(D)/cameras/.done: $(D)/linked.csv
	@$(SAY) "verify-cameras: the same moment from every camera"
	$(CS) verify-cameras $(D)/linked.csv --inventory $(D)/inventory.csv --out $(D)/cameras
	@touch $@

$(D)/clips/clips.csv: $(D)/linked.csv
	@$(SAY) "extract: one clip an event"
	$(CS) extract $(D)/linked.csv --mode proxy --out $(D)/clips --workers 2

$(D)/split/split.json: $(D)/linked.csv
	@$(SAY) "split: whole bouts; groups 4 and 5 kept apart"
	$(CS) split $(D)/linked.csv --scheme bout --out $(D)/split

$(D)/split/.audited: $(D)/split/split.json
	@$(SAY) "audit-split: does anything stand on two sides?"
	$(CS) audit-split $(D)/split
	@touch $@

# One thread a run: two threads that wait for each other on a busy core are many times slower than one.
$(DONE) &: $(RUNS:%=configs/%.yaml) | $(D)/clips/clips.csv $(D)/split/.audited $(D)/cameras/.done
	@$(SAY) "run: train, evaluate, calibrate three experiments, two at a time (a few minutes)"
	$(CS) run $(RUNS:%=configs/%.yaml) --seeds 42 --resume --jobs 2

# After the panel, whose verdict on motion stands on the page's first screen.
$(P)/%/evaluate/report.html: runs/%/s42/DONE $(P)/%/confounds/confounds.html
	@$(SAY) "evaluate $*: on groups 4 and 5"
	$(CS) evaluate runs/$*/s42/test_predictions.csv --manifest $(D)/split/test_ood.csv --train $(D)/split/train.csv --out $(@D) --simulated

$(P)/%/calibrate/calibration.html: runs/%/s42/DONE
	@$(SAY) "calibrate $*: fitted on validation - reported on test"
	$(CS) calibrate runs/$*/s42/predictions_agg.csv --test runs/$*/s42/test_predictions.csv --out $(@D) --simulated

$(P)/%/confounds/confounds.html: runs/%/s42/DONE
	@$(SAY) "confounds $*: is it the behaviour or the camera?"
	$(CS) confounds runs/$*/s42/predictions_agg.csv --train $(D)/split/train.csv --val $(D)/split/val.csv --run runs/$*/s42 --out $(@D) --simulated

$(P)/compare/comparison.html: $(DONE)
	@$(SAY) "compare: the three on the same events"
	$(CS) compare $(RUNS:%=runs/%/s42) --out $(@D) --simulated

reports/index.html: $(PAGES)
	@$(SAY) "report"
	$(CS) report runs --pages $(P) --out reports > /dev/null
