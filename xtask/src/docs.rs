//! Runs the code in Markdown files: blocks fenced as `python` and `c`. Builds the guide. (Rust's blocks are documentation tests of the
//! crate `mfa`, Objective-C's and Swift's run with their own tests.)

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::c;
use crate::counts::Counts;
use crate::dist;
use crate::process::{LoggedStep, output};
use crate::repo::Repo;
use crate::venv::Venv;

/// A block of code, and the line of the file where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) language: String,
    /// The fence says that it needs PyTorch.
    torch: bool,
    /// The fence says that it is a program by itself (Swift's may also be parts of a manifest).
    pub(crate) program: bool,
    pub(crate) line: usize,
    pub(crate) code: String,
}

/// Runs every block; each is a program of its own, and one test. `built` is the folder of the C library.
pub(crate) fn run(repo: &Repo, venv: &Venv, step: &mut LoggedStep, built: &Path) -> Result<()> {
    let out = repo.scratch("docs");
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let prefix = repo.scratch("docs/prefix");
    dist::c_tree(repo, step, &prefix, &dist::Libraries::Built(built))?;
    let torch = venv.has("torch");
    for (file, blocks) in markdown(repo)? {
        for block in blocks {
            if block.torch && !torch {
                step.counts.skipped += 1;
                continue;
            }
            let name = format!("{}-{}", file.replace('/', "-"), block.line);
            let result = match block.language.as_str() {
                "python" => python(venv, step, &out.join(name + ".py"), &block.code),
                "c" => c_program(step, &prefix, &out.join(name + ".c"), &block.code),
                _ => continue,
            };
            count(step, &file, &block, result)?;
        }
    }
    ensure!(
        step.counts != Counts::default(),
        "no code in any Markdown file"
    );
    Ok(())
}

/// Every Markdown file of the repository, and its blocks.
pub(crate) fn markdown(repo: &Repo) -> Result<Vec<(String, Vec<Block>)>> {
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
    let blocks_of = |file: &str| {
        // One that was deleted but not yet committed is still listed.
        let text = fs::read_to_string(repo.path(file)).unwrap_or_default();
        (file.to_owned(), blocks(&text))
    };
    Ok(files.lines().map(blocks_of).collect())
}

/// The outcome of a block, which is one test.
pub(crate) fn count(
    step: &mut LoggedStep,
    file: &str,
    block: &Block,
    result: Result<()>,
) -> Result<()> {
    match result {
        Ok(()) => step.counts += Counts::passed(1),
        Err(error) => {
            step.say(&format!("FAILED: {file}:{}: {error:#}", block.line))?;
            step.counts += Counts::failed(1);
        }
    }
    Ok(())
}

/// Builds the guide; a link to nowhere is an error.
pub(crate) fn guide(repo: &Repo, venv: &Venv, step: &mut LoggedStep) -> Result<()> {
    step.run_check(
        venv.program("mkdocs")
            .args(["build", "--strict", "--quiet", "--site-dir"])
            .arg(repo.scratch("guide"))
            .env("NO_MKDOCS_2_WARNING", "1")
            .current_dir(&repo.root),
    )
}

fn python(venv: &Venv, step: &mut LoggedStep, path: &Path, code: &str) -> Result<()> {
    fs::write(path, code).with_context(|| format!("writing {}", path.display()))?;
    step.run(&mut venv.python([path]))
}

fn c_program(step: &mut LoggedStep, prefix: &Path, path: &Path, code: &str) -> Result<()> {
    fs::write(path, code).with_context(|| format!("writing {}", path.display()))?;
    let program = path.with_extension("");
    let lib = prefix.join("lib");
    step.compile(
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
    // `swift`, `python torch`; and for MkDocs, which knows no words behind the language, `{.python .torch}`.
    let is_separator = |c: char| " ,.{}".contains(c);
    for (index, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(info), None) => {
                let mut words = info.split(is_separator).filter(|word| !word.is_empty());
                let language = words.next().unwrap_or_default().to_owned();
                let notes: Vec<_> = words.collect();
                open = Some(Block {
                    language,
                    torch: notes.contains(&"torch"),
                    program: notes.contains(&"program"),
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
        let text = "a\n```{.python .torch}\nx = 1\n\ny = 2\n```\nb\n```c ignore\n```\n```\nplain\n```\n```rust\nnever closed\n";
        let found: Vec<_> = blocks(text)
            .into_iter()
            .map(|block| (block.language, block.torch, block.line, block.code))
            .collect();
        let expected = [
            ("python", true, 2, "x = 1\n\ny = 2\n"),
            ("c", false, 8, ""),
            ("", false, 10, "plain\n"),
        ];
        let expected: Vec<_> = expected
            .map(|(language, torch, line, code)| {
                (language.to_owned(), torch, line, code.to_owned())
            })
            .into();
        assert_eq!(found, expected);
    }
}
