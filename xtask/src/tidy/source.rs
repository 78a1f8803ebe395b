//! A text file of the repository.

/// One tracked text file.
pub(super) struct Source {
    pub(super) path: String,
    pub(super) text: String,
}

impl Source {
    pub(super) fn is(&self, extensions: &[&str]) -> bool {
        self.path
            .rsplit_once('.')
            .is_some_and(|(_, extension)| extensions.contains(&extension))
    }

    /// A text that is not ours to word: a licence, a novel, a lock file.
    pub(super) fn is_data(&self) -> bool {
        let path = self.path.as_str();
        path.ends_with(".lock") || path.ends_with(".txt") || path.ends_with("LICENSE")
    }

    /// Written by a program: its preamble says so.
    pub(super) fn generated(&self) -> bool {
        self.path.ends_with(".lock")
            || self
                .text
                .lines()
                .take(5)
                .any(|line| line.to_lowercase().contains("do not edit"))
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(i, line)| (i + 1, line))
    }
}
