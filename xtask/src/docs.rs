//! Runs the code in Markdown files: blocks fenced as `python` and `c`. (Rust's are documentation tests; Objective-C's run
//! with its other tests.)

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::c;
use crate::counts::Counts;
use crate::dist;
use crate::process::{Step, output};
use crate::repo::Repo;
use crate::venv::Venv;

/// A block of code, and the line of the file where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    language: String,
    line: usize,
    pub(crate) code: String,
}

/// Runs every block; each is a program of its own, and one test. `built` is the folder of the C library.
pub(crate) fn run(repo: &Repo, venv: &Venv, step: &mut Step, built: &Path) -> Result<()> {
    let out = repo.scratch("docs");
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let prefix = repo.scratch("c/prefix");
    dist::c_tree(repo, step, &prefix, &dist::Libraries::Built(built))?;
    each(repo, step, &["python", "c"], |step, block, name| {
        if block.language == "c" {
            c_program(step, &prefix, &out.join(format!("{name}.c")), &block.code)
        } else {
            python(venv, step, &out.join(format!("{name}.py")), &block.code)
        }
    })
}

/// Runs every block of these languages through `run`, which also gets a name for it; counts them as tests.
pub(crate) fn each(
    repo: &Repo,
    step: &mut Step,
    languages: &[&str],
    mut run: impl FnMut(&mut Step, &Block, &str) -> Result<()>,
) -> Result<()> {
    let files = output(
        Command::new("git")
            .args([
                "ls-files",
                "--cached",
                "--others",
                "--exclude-standard",
                "--",
                "*.md",
            ])
            .current_dir(&repo.root),
    )?;
    let mut found = 0;
    for file in files.lines() {
        let Ok(text) = fs::read_to_string(repo.path(file)) else {
            // Deleted, but not yet committed.
            continue;
        };
        for block in blocks(&text) {
            if !languages.contains(&block.language.as_str()) {
                continue;
            }
            found += 1;
            let name = format!("{}-{}", file.replace('/', "-"), block.line);
            match run(step, &block, &name) {
                Ok(()) => step.counts += Counts::passed(1),
                Err(error) => {
                    step.say(&format!("FAILED: {file}:{}: {error:#}", block.line))?;
                    step.counts += Counts::failed(1);
                }
            }
        }
    }
    ensure!(
        found > 0,
        "no code in {} in any Markdown file",
        languages.join(" or ")
    );
    Ok(())
}

fn python(venv: &Venv, step: &mut Step, path: &Path, code: &str) -> Result<()> {
    fs::write(path, code).with_context(|| format!("writing {}", path.display()))?;
    step.run(&mut venv.python([path]))
}

fn c_program(step: &mut Step, prefix: &Path, path: &Path, code: &str) -> Result<()> {
    fs::write(path, code).with_context(|| format!("writing {}", path.display()))?;
    let program = path.with_extension("");
    let lib = prefix.join("lib");
    step.run(
        c::compiler()
            .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-I"])
            .arg(prefix.join("include"))
            .arg(path)
            .arg("-L")
            .arg(&lib)
            .args(["-lmfa", "-o"])
            .arg(&program),
    )?;
    step.run(&mut c::with_library(Command::new(&program), &lib))
}

/// The fenced blocks of a text. The language is the first word behind the fence.
fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(info), None) => {
                let language = info.split([' ', ',']).next().unwrap_or_default();
                open = Some(Block {
                    language: language.to_owned(),
                    line: index + 1,
                    code: String::new(),
                });
            }
            (None, Some(block)) => {
                block.code += line;
                block.code.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_blocks() {
        let text = "a\n```python\nx = 1\n\ny = 2\n```\nb\n```c ignore\n```\n```\nplain\n```\n```rust\nnever closed\n";
        let found: Vec<_> = blocks(text)
            .into_iter()
            .map(|block| (block.language, block.line, block.code))
            .collect();
        let expected = [
            ("python", 2, "x = 1\n\ny = 2\n"),
            ("c", 8, ""),
            ("", 10, "plain\n"),
        ];
        let expected: Vec<_> = expected
            .map(|(language, line, code)| (language.to_owned(), line, code.to_owned()))
            .into();
        assert_eq!(found, expected);
    }
}
