//! The dataset card and its company. What other programs make of them is checked by `tests/oracle/check_card.py`.

use crate::corpus;
use crate::harness::{Dir, assert_same};
use serde_json::{Value, json};

const CARD_FILES: [&str; 5] = ["README.md", "croissant.json", "domains.svg", "lengths.svg", "quality.svg"];

/// A folder with the demo's documents as input.
fn with_input() -> Dir {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::classified().concat());
    dir
}

/// A fenced block of the card.
#[track_caller]
fn block(card: &str, language: &str) -> Option<String> {
    let (_, rest) = card.split_once(&format!("```{language}\n"))?;
    rest.split_once("\n```").map(|(block, _)| block.to_owned())
}

#[test]
fn the_card_has_the_figures_of_the_run() {
    let dir = with_input();
    dir.export().run().status(0);
    let (card, stats) = (dir.text("out/README.md"), dir.json("out/dataset_stats.json"));
    for (name, split) in stats["splits"].as_object().expect("splits") {
        let (count, bytes) = (&split["count"], &split["bytes"]);
        let line = format!("  - name: {name}\n    num_bytes: {bytes}\n    num_examples: {count}\n");
        assert!(card.contains(&line), "{line}{card}");
    }
    assert!(card.contains("**705** documents"), "{card}");
    for (domain, count) in stats["domain_distribution"].as_object().expect("domains") {
        assert!(card.contains(&format!("| {} | {count} | ", domain.replace('_', r"\_"))), "{domain}");
    }
    assert!(card.contains(&format!("| High (0.8 and above) | {} | ", stats["quality_distribution"]["high"])), "{card}");
    // All of it is in the manifest; that the hashes are right, others check.
    let manifest = dir.json("out/manifest.json");
    let listed: Vec<_> = manifest["files"].as_array().expect("files").iter().map(|file| &file["path"]).collect();
    for name in CARD_FILES {
        assert!(listed.contains(&&Value::from(name)), "{name}");
        assert!(name.ends_with(".svg") <= card.contains(&format!("]({name})")), "{name}");
    }
    let hashes: Vec<_> = manifest["files"].as_array().expect("files").iter().map(|file| &file["sha256"]).collect();
    for file in dir.json("out/croissant.json")["distribution"].as_array().expect("files") {
        assert!(hashes.contains(&&file["sha256"]), "{file}");
    }
}

/// One option, three ways to give it.
#[test]
fn flags_environment_and_job_file_say_the_same() {
    let dir = with_input();
    let args = [
        ["--pretty-name", "My corpus"],
        ["--description", "First.\n\nSecond."],
        ["--language", "no,en"],
        ["--license", "cc-by-4.0"],
        ["--tags", "a,b c"],
        ["--creator", "Me"],
        ["--homepage", "https://example.org/"],
        ["--citation", "@misc{x}"],
        ["--dataset-version", "2.1.0"],
        ["--date-published", "2024-02-29"],
    ];
    dir.export().args(args.concat()).run().status(0);
    let by_flags = dir.snapshot("out");
    let by_environment = args.iter().fold(dir.export(), |run, [flag, value]| {
        run.env(&format!("COLOPHON{}", flag[1..].replace('-', "_").to_uppercase()), value)
    });
    by_environment.run().status(0);
    assert_same(&by_flags, &dir.snapshot("out"), "the environment");
    let value = |flag: &str, value: &str| match flag {
        "language" | "tags" => json!(value.split(',').collect::<Vec<_>>()).to_string(),
        "date-published" => value.into(),
        _ => json!(value).to_string(),
    };
    let job = args.map(|[flag, given]| format!("{} = {}\n", &flag[2..], value(&flag[2..], given))).concat();
    dir.write("job.toml", &job);
    dir.export().args(["--job", "job.toml"]).run().status(0);
    assert_same(&by_flags, &dir.snapshot("out"), "the job file");
    let card = dir.text("out/README.md");
    let header =
        "---\npretty_name: \"My corpus\"\nlanguage:\n- \"no\"\n- en\nlicense: cc-by-4.0\ntags:\n- a\n- \"b c\"\n";
    assert!(card.starts_with(header), "{card}");
    let croissant = dir.json("out/croissant.json");
    let said = ["name", "version", "url", "citeAs", "datePublished"].map(|key| &croissant[key]);
    assert_eq!(said, ["My corpus", "2.1.0", "https://example.org/", "@misc{x}", "2024-02-29"]);
    assert_eq!(dir.json("out/manifest.json")["configuration"]["card"]["creator"], "Me");
}

#[test]
fn a_job_file_adds_to_the_header_but_not_to_what_is_measured() {
    let dir = with_input();
    dir.write("job.toml", "[card]\nsize_categories = ['10K<n<100K']\ntask_categories = ['text-generation']\n");
    dir.export().args(["--job", "job.toml"]).run().status(0);
    let card = dir.text("out/README.md");
    assert!(card.contains("\nsize_categories:\n- \"10K<n<100K\"\ntask_categories:\n- text-generation\n"), "{card}");
    assert_eq!(card.matches("size_categories").count(), 2, "in the header and in the job file");
    for (job, says) in [
        ("[card]\nconfigs = []\n", "[card] configs"),
        ("[card]\nlicense = 'mit'\n", "'license'"),
        ("license = ''\n", "--license is empty"),
        ("licence = 'mit'\n", "did you mean 'license'"),
    ] {
        dir.write("job.toml", job);
        dir.export().args(["--job", "job.toml"]).run().status(2).says(&[says]);
    }
}

#[test]
fn no_card_means_none() {
    let dir = with_input();
    dir.export().args(["--no-card"]).run().status(0);
    assert!(CARD_FILES.iter().all(|name| !dir.path("out").join(name).exists()));
    assert_eq!(dir.json("out/manifest.json")["configuration"]["card"], Value::Null);
}

#[test]
fn what_people_wrote_is_not_lost() {
    let dir = with_input();
    dir.write("out/README.md", "mine");
    dir.export().run().status(2).says(&["README.md is not as colophon wrote it", "--no-card"]);
    dir.export().env("COLOPHON_NO_CARD", "1").run().status(0);
    assert_eq!(dir.text("out/README.md"), "mine");
    std::fs::remove_file(dir.path("out/README.md")).expect("removed");
    dir.export().run().status(0);
    let edited = dir.text("out/README.md") + "A word from me.\n";
    dir.write("out/README.md", &edited);
    for args in [&[][..], &["--no-card"]] {
        dir.export().args(args).run().status(2).says(&["README.md is not as colophon wrote it"]);
        assert_eq!(dir.text("out/README.md"), edited);
    }
}

/// The card says how to make the dataset again; so it has to be the same dataset.
#[test]
fn the_command_in_the_card_makes_the_same_dataset() {
    let dir = with_input();
    let field = "[[field]]\nfrom = 'text'\nto = 'text'\ntype = 'string'\nrequired = true\n";
    let jobs = [
        String::new(),
        "compress = 'zstd'\nshard-size = '100k'\nlicense = \"it's\"\ndescription = '''a `b`\n\n$HOME \"c\"'''\n".into(),
        "no-card = false\nsplit-names = ['a', 'b-c']\nsplit-ratio = [0.25, 0.75]\nseed = 7\ntags = ['x', 'y z']\n"
            .into(),
        format!(
            "{field}[constants]\nmetadata.n = 5\nmetadata.f = 0.5\nx = ['''```''', true]\n[card]\nviewer = false\n"
        ),
        format!("default-constants = false\n{field}"),
    ];
    for job in jobs {
        dir.write("job.toml", &job);
        dir.colophon(["export", "--job", "job.toml", "--input-dir", "in", "--output-dir", "out"]).run().status(0);
        let card = dir.text("out/README.md");
        let command = block(&card, "sh").expect("a command").replace("INPUT", "in").replace("OUTPUT", "again");
        // A block with backticks has a longer fence.
        if let Some(job) =
            block(&card, "toml").or_else(|| card.split("````toml\n").nth(1)?.split("\n````").next().map(String::from))
        {
            dir.write("job.toml", job);
        }
        let arguments = command.strip_prefix("colophon ").expect("the program").to_owned();
        let run = std::process::Command::new("sh")
            .args(["-c", &format!("\"$0\" {arguments}"), env!("CARGO_BIN_EXE_colophon")])
            .current_dir(dir.root())
            .output()
            .expect("a shell");
        assert!(run.status.success(), "{command}\n{}", String::from_utf8_lossy(&run.stderr));
        assert_same(&dir.snapshot("out"), &dir.snapshot("again"), &command);
    }
}
