//! What outlives the process: the history of configurations, and the audit log.

use std::time::Duration;

use super::{Balancer, Source};
use crate::admin::Who;
use crate::admin::audit::Audit;
use crate::admin::history::History;
use crate::admin::state_dir::StateDir;

/// Longer than a disk that works needs for two small files. The loop does not wait for one that hangs: checks go on.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where it is kept. The folder is held for as long as this lives.
pub(super) struct Kept {
    history: History,
    _folder: StateDir,
    /// Who asked for the reload that is under way.
    reloading: Option<Who>,
}

impl Balancer {
    /// Keeps in this folder, from now on, what is accepted and who changed what; the configuration of the start too.
    pub async fn keep_in(&mut self, folder: StateDir) {
        let history = History::of(folder.path());
        if let Err(error) = history.make() {
            tracing::warn!(folder = %history.folder().display(), "configurations are not kept: {error}");
        }
        self.journal.audit(Audit::start(folder.path()));
        self.kept = Some(Kept { history, _folder: folder, reloading: None });
        let who = Who::Own("start");
        let version = concat!("trunkline ", env!("CARGO_PKG_VERSION"), " started");
        self.journal.began(&who, self.name_of_source(), version);
        self.keep(&who).await;
    }

    /// Somebody ends it: the audit log says who, and whose reload was not done yet.
    pub fn ends(&mut self, who: &Who) {
        if let Some(asked) = self.kept.as_mut().and_then(|kept| kept.reloading.take()) {
            let (name, ended) = (self.name_of_source(), "it ended before the reload was done\n".to_owned());
            self.journal.reloaded(&asked, [name.clone(), name], &Err(ended));
        }
        self.journal.ended(who, self.name_of_source());
    }

    /// Whose reload is under way.
    pub(super) fn note_reload(&mut self, who: Option<&Who>) {
        if let Some(kept) = &mut self.kept {
            kept.reloading = who.cloned();
        }
    }

    /// The name of the configuration in force; nothing where it came from no file.
    pub(super) fn name_of_source(&self) -> String {
        self.source.as_ref().map_or_else(String::new, Source::name)
    }

    /// Keeps the configuration that is in force. Where that cannot be it is in force all the same.
    pub(super) async fn keep(&self, who: &Who) {
        let (Some(kept), Some(source)) = (&self.kept, &self.source) else { return };
        let (history, text, name) = (kept.history.clone(), source.content.clone(), who.to_string());
        let keeping = tokio::task::spawn_blocking(move || history.keep(&text, &name));
        let error = match tokio::time::timeout(PATIENCE, keeping).await {
            Ok(Ok(Ok(number))) => return tracing::info!(number, "configuration kept"),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the disk does not answer".to_owned(),
        };
        let folder = kept.history.folder().display();
        tracing::warn!(%folder, "the configuration is in force and not kept: {error}; `rollback` cannot return to it");
    }
}
