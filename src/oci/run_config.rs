//! What an image config says of how its programs are run.
//! Source: OCI image-spec `config.md`.

use serde::Deserialize;
use serde_json::Value;

use super::json;
use super::manifest::ManifestError;

/// Fields of a config's `config`.
const RUN: &[&str] = &["Env", "Entrypoint", "Cmd", "WorkingDir"];

/// How an image's programs are run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunConfig {
    /// Environment variables, name and value.
    pub env: Vec<(String, String)>,
    /// What is run: the entry point, then the arguments.
    pub command: Vec<String>,
    /// Where it is run; empty for the root directory.
    pub working_dir: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Document {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

impl RunConfig {
    /// Reads an image config. What it does not say is empty.
    ///
    /// # Errors
    /// If it is no JSON object, or a field has another type.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let wrong =
            |error: serde_json::Error| ManifestError::Json("image config", error.to_string());
        let mut value = json::parse(bytes).map_err(wrong)?;
        let fields = value
            .as_object_mut()
            .ok_or(ManifestError::Missing("image config", "an object"))?;
        json::name_fields(fields, &["config"]);
        let mut run = fields.remove("config").unwrap_or(Value::Null);
        if let Some(fields) = run.as_object_mut() {
            json::name_fields(fields, RUN);
        }
        let run: Option<Document> = serde_json::from_value(run).map_err(wrong)?;
        let run = run.unwrap_or_default();
        let variables = run.env.unwrap_or_default();
        let pair = |text: String| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Some((name.to_owned(), value.to_owned())),
            _ => None,
        };
        let mut command = run.entrypoint.unwrap_or_default();
        command.extend(run.cmd.unwrap_or_default());
        Ok(Self {
            env: variables.into_iter().filter_map(pair).collect(),
            command,
            working_dir: run.working_dir.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_says_what_is_run_where_and_with_what() {
        let text = br#"{"config":{"env":["PATH=/bin","A=b=c","nonsense"],"Entrypoint":["/a"],
            "Cmd":["b"],"WorkingDir":"/srv","User":"x"}}"#;
        let config = RunConfig::parse(text).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(config.env, [pair("PATH", "/bin"), pair("A", "b=c")]);
        assert_eq!(config.command, ["/a", "b"]);
        assert_eq!(config.working_dir, "/srv");
    }

    #[test]
    fn a_config_that_says_nothing_is_empty() {
        for text in [r"{}", r#"{"config":null}"#, r#"{"config":{"Cmd":null}}"#] {
            let found = RunConfig::parse(text.as_bytes()).unwrap();
            assert_eq!(found, RunConfig::default());
        }
        assert!(RunConfig::parse(b"[]").is_err());
    }
}
