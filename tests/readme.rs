//! The README tells the truth about settings and commands.

use loopgate::config::SETTINGS;

const README: &str = include_str!("../README.md");

#[test]
fn every_setting_stands_in_the_readme_with_its_default_and_meaning() {
    for setting in SETTINGS {
        let row = format!("| `{}` | `{}` | {} |", setting.key, setting.default, setting.meaning);
        assert!(README.lines().any(|line| line == row), "missing or different: {row}");
    }
    let rows =
        README.lines().skip_while(|line| *line != "## Every setting").take_while(|line| !line.starts_with("## How"));
    let count = rows.filter(|line| line.starts_with("| `")).count();
    assert_eq!(count, SETTINGS.len(), "the README names a setting that is not there");
}

#[test]
fn the_two_commands_are_the_readmes() {
    for command in ["cargo run --release -- demo", "cargo test"] {
        assert!(README.lines().any(|line| line.trim() == command), "{command}");
    }
}

#[test]
fn the_readmes_example_is_a_good_configuration() {
    let example = README.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let parse = |text: &str| loopgate::config::Config::parse(text, std::path::Path::new("."));
    assert!(parse(example).is_ok(), "{:?}", parse(example));
    let whole = example.replace("# public_url", "public_url").replace("# fhir = ", "fhir = ");
    let whole = whole.replace("{ env = \"CLINIC_TOKEN\" }", "\"token\"");
    assert!(whole != example && parse(&whole).is_ok(), "{:?}", parse(&whole));
}

/// SECURITY.md names tests: `module::test` of tests/it. Each must be there.
#[test]
fn the_tests_that_security_names_are_there() {
    let security = include_str!("../SECURITY.md");
    let named = security.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.rsplit_once("::"));
    let mut count = 0;
    for (module, test) in named {
        // Beside the code, by its path; else a module of the integration tests.
        let file = if module.ends_with(".rs") {
            module.to_string()
        } else {
            format!("tests/it/{}.rs", module.replace("::", "/"))
        };
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(&path).unwrap_or_default();
        let there = source.contains(&format!("fn {test}(")) || source.contains(&format!("on_both!({test},"));
        assert!(there, "SECURITY.md names {module}::{test}");
        count += 1;
    }
    assert!(count > 10, "SECURITY.md names hardly a test");
}
