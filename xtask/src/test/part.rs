//! A part of the suite: its name, its lane, and how it is run.

use anyhow::Result;

use crate::process::LoggedStep;
use crate::test::schedule::Lane;
use crate::test::test_env::TestEnv;

/// How a part ended, if nothing went wrong.
pub(super) enum Outcome {
    /// It ran; the note (may be empty) says on what.
    Ran(String),
    /// It could not run, for this reason: something is not installed, or was not asked for.
    Skipped(String),
    /// The machine itself has nothing to run it on: that is no failure, even where nothing may be skipped.
    Impossible(String),
}

type Run = Box<dyn Fn(&TestEnv<'_>, &mut LoggedStep) -> Result<Outcome> + Send + Sync>;

/// A piece of the suite.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) about: String,
    pub(super) lane: Lane,
    pub(super) run: Run,
}

impl Part {
    pub(super) fn new(
        lane: Lane,
        name: impl Into<String>,
        about: impl Into<String>,
        run: impl Fn(&TestEnv<'_>, &mut LoggedStep) -> Result<Outcome> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            about: about.into(),
            lane,
            run: Box::new(run),
        }
    }

    pub(super) fn selected(&self, only: &[String]) -> bool {
        only.is_empty()
            || only.iter().any(|wanted| {
                self.name
                    .strip_prefix(wanted.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            })
    }
}
