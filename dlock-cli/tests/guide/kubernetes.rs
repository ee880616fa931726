//! The manifests of Kubernetes on the pages are well-formed and fit together, and their commands
//! run.

use std::fs;

use dlock_test_servers::RedisServer;
use yaml_rust2::{Yaml, YamlLoader};

use crate::pages::{Block, blocks};
use crate::sandbox::Sandbox;
use crate::support::{code, ended, spawn};

/// The jobs of the manifests, and what takes their place here.
const JOBS: [(&str, &str); 2] = [
    ("/usr/bin/payouts", "./payouts"),
    ("/usr/bin/import", "./import"),
];

/// The only document of a block.
fn document(block: &Block) -> Yaml {
    let mut documents = YamlLoader::load_from_str(&block.text)
        .unwrap_or_else(|error| panic!("{}: {error}", block.place));
    assert_eq!(documents.len(), 1, "{}", block.place);
    documents.remove(0)
}

fn texts(list: &Yaml) -> Vec<String> {
    let entries = list.as_vec().map_or(&[][..], Vec::as_slice).iter();
    let text = |entry: &Yaml| entry.as_str().expect("a text").to_owned();
    entries.map(text).collect()
}

/// Runs the command of a container, whose job must have been run. `store` is the value of
/// DLOCK_STORE_FILE, if the container has it.
fn run(sandbox: &Sandbox<'_>, block: &Block, container: &Yaml, store: Option<&str>) {
    let words = [texts(&container["command"]), texts(&container["args"])].concat();
    let ours = |word: &String| {
        let replaced = |word: String, (from, to): &(&str, &str)| word.replace(from, to);
        JOBS.iter().fold(word.clone(), replaced)
    };
    let words: Vec<String> = words.iter().map(ours).collect();
    for (_, job) in JOBS {
        sandbox.script(job.trim_start_matches("./"));
    }
    let mut command = sandbox.command(&words[0]);
    if let Some(store) = store {
        let path = sandbox.path("store");
        fs::write(&path, store).unwrap();
        command
            .env_remove("DLOCK_STORE")
            .env("DLOCK_STORE_FILE", path);
    }
    let run = ended(spawn(command.args(&words[1..])));
    assert_eq!(code(&run), 0, "{}: {run:?}", block.place);
    assert_eq!(sandbox.started(), 1, "{}: {run:?}", block.place);
}

/// Checks that what a deployment names is there: its pods, its volumes, the file of the store.
/// Returns its container.
fn fits_together<'a>(block: &Block, deployment: &'a Yaml) -> &'a Yaml {
    let place = &block.place;
    assert_eq!(
        deployment["apiVersion"].as_str(),
        Some("apps/v1"),
        "{place}"
    );
    let spec = &deployment["spec"];
    let template = &spec["template"];
    let labels = &template["metadata"]["labels"];
    assert!(
        labels.as_hash().is_some_and(|labels| !labels.is_empty()),
        "{place}"
    );
    assert_eq!(&spec["selector"]["matchLabels"], labels, "{place}");
    assert!(spec["replicas"].as_i64() > Some(1), "{place}");
    let pod = &template["spec"];
    assert!(
        pod["terminationGracePeriodSeconds"].as_i64().is_some(),
        "{place}"
    );
    let container = &pod["containers"][0];
    let mount = &container["volumeMounts"][0];
    assert!(mount["name"].as_str().is_some(), "{place}");
    assert_eq!(mount["name"], pod["volumes"][0]["name"], "{place}");
    assert!(
        pod["volumes"][0]["secret"]["secretName"].as_str().is_some(),
        "{place}"
    );
    let variable = &container["env"][0];
    assert_eq!(
        variable["name"].as_str(),
        Some("DLOCK_STORE_FILE"),
        "{place}"
    );
    let (file, folder) = (&variable["value"], &mount["mountPath"]);
    let folder = format!("{}/", folder.as_str().unwrap_or_default());
    assert!(
        file.as_str().is_some_and(|file| file.starts_with(&folder)),
        "{place}"
    );
    container
}

#[test]
fn each_manifest_is_well_formed_and_its_command_runs_the_job() {
    let redis = RedisServer::start();
    let mut manifests = blocks();
    manifests.retain(|block| block.language == "yaml");
    let mut deployments = 0;
    for (number, block) in manifests.iter().enumerate() {
        let sandbox = Sandbox::new(&redis, number);
        let document = document(block);
        match document["kind"].as_str() {
            Some("Deployment") => {
                deployments += 1;
                let container = fits_together(block, &document);
                run(&sandbox, block, container, Some(&redis.url()));
            }
            // A part of a container.
            None => run(&sandbox, block, &document, None),
            Some(kind) => panic!("{}: {kind}", block.place),
        }
    }
    assert!(deployments > 0 && manifests.len() > deployments);
}
