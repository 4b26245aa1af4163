//! Each example runs to its end, as a person would run it, and gives what it promises.

use crate::support::{Place, step};

/// Runs one pass; the documents of its runs.
#[track_caller]
fn once(place: &Place) -> Vec<serde_json::Value> {
    place.run(&["up", "--once"]).expect(0);
    place.runs()
}

#[test]
fn digits_trains_a_sweep_and_says_which_cell_made_it_run_again() {
    let place = Place::of_example("digits");
    let ended = place.run(&["up", "--once"]).expect(0);
    for words in ["best HTML", "digits.joblib", "accuracy=", "report notebook", "run.json"] {
        let words = words.replace("best HTML", "] HTML");
        assert!(ended.stdout.contains(&words), "{words}: {}", ended.stdout);
    }
    let run = &place.runs()[0];
    assert_eq!(run["phase"], "Succeeded");
    let best = step(run, "train")["selected"].as_u64().unwrap();
    let chosen = step(run, &format!("train[{best}]"));
    assert_eq!(chosen["selected"], true);
    assert_eq!(chosen["metrics"], step(run, "train")["metrics"]);
    let model = step(run, "train")["artifacts"][0]["path"].as_str().unwrap();
    assert!(place.path(model).is_file());
    let page = step(run, "report")["notebook"].as_str().unwrap().replace(".ipynb", ".html");
    let page = place.read(&page);
    assert!(
        page.contains("data:image/png;base64,") && page.contains("<table"),
        "a picture, a table"
    );

    place.run(&["up", "--once"]).expect(0).says("nothing changed since run digits-");
    assert_eq!(place.runs().len(), 1);

    let edited = place.read("report.ipynb").replace("on {len(test)} pictures", "of {len(test)}");
    place.write("report.ipynb", &edited);
    place.run(&["plan", "--check"]).expect(3).says("report.ipynb: cell 3");
    place.run(&["up", "--once"]).expect(0).says("report.ipynb: cell 3");
    assert_eq!(place.runs().len(), 2);
}

#[test]
fn sales_report_sums_up_and_is_due_on_monday() {
    let place = Place::of_example("sales-report");
    let runs = once(&place);
    let clean = step(&runs[0], "clean");
    assert_eq!(clean["metrics"]["dropped"], 1.0);
    assert_eq!(clean["artifacts"][0]["name"], "table");
    let status = place.document(&["status"]);
    let next = status["pipelines"][0]["nextRun"].as_str().unwrap();
    let next: jiff::Timestamp = next.parse().unwrap();
    let berlin = next.in_tz("Europe/Berlin").unwrap();
    assert_eq!((berlin.weekday(), berlin.hour()), (jiff::civil::Weekday::Monday, 6));
    // A change of the data alone is a change too, and named.
    place.write("data/sales.csv", "week,region,product,units,price\n2026-W01,north,tea,1,2\n");
    place.run(&["plan"]).expect(0).says("input data/sales.csv changed");
}

#[test]
fn forecast_keeps_the_best_window_and_backtests_by_hand() {
    let place = Place::of_example("forecast");
    let runs = once(&place);
    assert_eq!(runs.len(), 1, "backtest has no trigger");
    let fit = step(&runs[0], "fit");
    let point = step(&runs[0], &format!("fit[{}]", fit["selected"]));
    assert_eq!(point["params"]["days"], 7, "the series is a weekly one: {point}");
    let text = step(&runs[0], "publish")["artifacts"][0]["path"].as_str().unwrap();
    assert!(place.read(text).starts_with("best window: 7 days, error "));
    let args = ["run", "jupyterflow.yaml", "--pipeline", "backtest", "-p", "days", "3"];
    let run = place.document(&args);
    assert_eq!((&run["phase"], &run["params"]["days"]), (&"Succeeded".into(), &3.into()));
    assert_eq!(step(&run, "fit")["outputs"]["days"], 3);
    place.run(&["run", "."]).expect(2).says("--pipeline");
}

#[test]
fn original_runs_as_it_was_written() {
    let place = Place::of_example("original");
    let run = place.document(&["run", "-f", "workflow.yaml"]);
    assert_eq!((&run["phase"], &run["pipeline"]), (&"Succeeded".into(), &"hello".into()));
    let name = run["name"].as_str().unwrap();
    let log = place.run(&["logs", name, "job-4"]).expect(0);
    assert_eq!(log.stdout, "train relu 0.5\n");
}

#[test]
fn short_form_fans_out_and_in() {
    let place = Place::of_example("short-form");
    let runs = once(&place);
    let notebook = place.read_json(step(&runs[0], "sum-up")["notebook"].as_str().unwrap());
    let text = notebook["cells"][0]["outputs"][0]["data"]["text/plain"].to_string();
    assert!(text.contains("'column': 'height'") && text.contains("'spread'"), "{text}");
}

#[test]
fn warehouse_waits_for_its_secret_and_never_shows_it() {
    let mut place = Place::of_example("warehouse");
    place.run(&["up", "--once"]).expect(0).says("MissingSecret");
    assert!(place.runs().is_empty());
    let secret = place.beside("secrets/warehouse/password");
    std::fs::create_dir_all(secret.parent().unwrap()).unwrap();
    std::fs::write(&secret, "s3cr3t-of-the-test\n").unwrap();
    place.env("JUPYTERFLOW_SECRETS", place.beside("secrets"));
    place.run(&["up", "--once"]).expect(0).says("chmod 0600");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&secret, private).unwrap();
    let runs = once(&place);
    assert_eq!(step(&runs[0], "check")["metrics"]["orders"], 100.0);
    let output = place.command("grep").args(["-r", "s3cr3t-of-the-test", "."]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "the secret is in a file");
}

#[test]
fn churn_says_what_is_not_executed_yet() {
    let place = Place::of_example("churn");
    let ended = place.run(&["plan"]).expect(0);
    assert!(ended.stdout.contains("`deploy` is valid but not executed yet"), "{}", ended.stdout);
    let runs = once(&place);
    assert!(step(&runs[0], "train")["metrics"]["auc"].as_f64().unwrap() > 0.6);
    let digest = step(&runs[0], "train")["artifacts"][0]["digest"].as_str().unwrap().to_owned();
    let name = runs[0]["name"].as_str().unwrap();
    place.run(&["logs", name, "report"]).expect(0).says(&digest);
}
