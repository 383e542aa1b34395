# The demo: every stage of the way on a simulated cohort. Each target is a file, so that a second call does only what is missing.
CS := $(BIN)/crosssuck
D := data/demo
RUNS := demo_v4_center demo_v4_roi demo_v4b_roi
DONE := $(RUNS:%=runs/%/s42/DONE)
PAGES := $(RUNS:%=reports/%_s42_evaluate/report.html) $(RUNS:%=reports/%_s42_calibrate/calibration.html) $(RUNS:%=reports/%_s42_confounds/confounds.html)
say = @printf '\n\033[1m%s\033[0m\n' "$(1)"
export OMP_NUM_THREADS ?= 2

demo: reports/index.html
	@$(CS) report runs --out reports --print
	@echo; echo "The lab report of a simulated cohort: open  $(CURDIR)/reports/index.html"

clean-demo:
	rm -rf $(D) $(RUNS:%=runs/%) reports/*.html $(dir $(PAGES)) reports/demo_*

$(D)/cohort/simulation.json: | $(INSTALLED)
	$(call say,simulate: six pens, four cameras each)
	$(CS) simulate $(D)/cohort --demo --seed 1

$(D)/manifest/events.csv: $(D)/cohort/simulation.json
	$(call say,manifest: the annotators' workbook becomes events)
	$(CS) manifest $(D)/cohort/workbook.xlsx --out $(D)/manifest

$(D)/inventory.csv: $(D)/cohort/simulation.json
	$(call say,scan: what is on the video drive)
	$(CS) scan $(D)/cohort/videos --out $@

$(D)/linked.csv: $(D)/manifest/events.csv $(D)/inventory.csv
	$(call say,link: each event to camera - file - offset)
	$(CS) link $(D)/manifest/events.csv $(D)/inventory.csv --cameras $(D)/cohort/cameras.yaml --out $@

$(D)/cameras/.done: $(D)/linked.csv
	$(call say,verify-cameras: the same moment from every camera)
	$(CS) verify-cameras $(D)/linked.csv --inventory $(D)/inventory.csv --out $(D)/cameras
	@touch $@

$(D)/clips/clips.csv: $(D)/linked.csv
	$(call say,extract: one clip an event)
	$(CS) extract $(D)/linked.csv --mode proxy --out $(D)/clips --workers 2

$(D)/split/split.json: $(D)/linked.csv
	$(call say,split: whole bouts; groups 4 and 5 kept apart)
	$(CS) split $(D)/linked.csv --scheme bout --out $(D)/split

$(D)/split/.audited: $(D)/split/split.json
	$(call say,audit-split: does anything stand on two sides?)
	$(CS) audit-split $(D)/split
	@touch $@

# One call trains, evaluates and calibrates what is not done yet.
$(DONE) &: $(D)/clips/clips.csv $(D)/split/.audited $(D)/cameras/.done $(RUNS:%=configs/%.yaml)
	$(call say,run: three experiments of two notebooks' worth of minutes each)
	$(CS) run $(RUNS:%=configs/%.yaml) --seeds 42 --resume

reports/%_s42_evaluate/report.html: runs/%/s42/DONE
	$(call say,evaluate $*: on groups 4 and 5)
	$(CS) evaluate runs/$*/s42/test_predictions.csv --manifest $(D)/split/test_ood.csv --train $(D)/split/train.csv --out $(@D) --simulated

reports/%_s42_calibrate/calibration.html: runs/%/s42/DONE
	$(call say,calibrate $*: fitted on validation - reported on test)
	$(CS) calibrate runs/$*/s42/predictions_agg.csv --test runs/$*/s42/test_predictions.csv --out $(@D) --simulated

reports/%_s42_confounds/confounds.html: runs/%/s42/DONE
	$(call say,confounds $*: is it the behaviour or the camera?)
	$(CS) confounds runs/$*/s42/predictions_agg.csv --train $(D)/split/train.csv --val $(D)/split/val.csv --run runs/$*/s42 --out $(@D) --simulated

reports/demo_compare/comparison.html: $(DONE)
	$(call say,compare: the three on the same events)
	$(CS) compare $(RUNS:%=runs/%/s42) --out $(@D) --simulated

reports/index.html: $(PAGES) reports/demo_compare/comparison.html
	$(call say,report)
	$(CS) report runs --out reports
