//! The files of TLS: read at start and by a reload, and looked at while it runs.

use std::sync::Arc;

use tokio::task::JoinError;

use super::{Balancer, StartError};
use crate::admin::Who;
use crate::admin::journal::{Change, Kind};
use crate::config::Config;
use crate::net::tls::{Fault, Look, Material, News, Tls};

/// Reads the certificates, keys and authorities that a configuration names.
///
/// # Errors
/// Everything that is wrong with them, ready to be printed.
pub fn read_tls(config: &Config) -> Result<Tls, StartError> {
    Tls::load(config).map_err(|faults| StartError::Config(faults.to_string()))
}

/// Says what the operator should know of them.
pub(super) fn tell_warnings(tls: &Tls) {
    tls.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
}

impl Balancer {
    /// What a new configuration needs, read and judged; nothing is touched.
    pub(super) async fn prepare_tls(&mut self, wanted: &Config) -> Result<Material, String> {
        let (tls, wanted) = (Arc::clone(&self.tls), wanted.clone());
        let prepared = self.read_from_disk("certificates", move || tls.prepare(&wanted)).await?;
        prepared.map_err(|faults| format!("{faults}nothing was changed\n"))
    }

    /// Begins to look whether certificates have changed, unless the last look has not ended: a disk may hang, and nobody
    /// waits for it.
    pub(super) fn look_at_certificates(&mut self) {
        let tls = Arc::clone(&self.tls);
        if self.looks.is_empty() {
            self.looks.spawn_blocking(move || tls.look());
        } else {
            tracing::warn!("certificates: the disk has not answered since the last look: new ones are not taken");
        }
    }

    /// Takes certificates that have changed. What is broken is said once, and what was there stays.
    pub(super) fn take_certificates(&self, looked: Result<Look, JoinError>) {
        let news = looked.map(|look| self.tls.take(look));
        for news in news.unwrap_or_else(|error| vec![News::Warning(format!("certificates: {error}"))]) {
            match news {
                News::Taken(what) => {
                    tracing::info!("{what}");
                    let (from, to) = (String::new(), String::new());
                    let change = Change { kind: Kind::Certificate, of: "", what: "certificates", from, to };
                    self.journal.changed(&Who::Own("look at the files"), &change, what);
                }
                News::Warning(what) => tracing::warn!("{what}"),
                News::Kept(Fault { file, what, remedy }) => {
                    tracing::error!(file = %file.display(), "{what}: what was there stays in force; {remedy}");
                }
            }
        }
    }
}
