"""Ways in which a video becomes frames; the component kind ``video`` (`data.media.video`)."""

from mmcredit.data.videos.base import EMPTY, VideoLoader, VideoReader, video_loader

__all__ = ["EMPTY", "VideoLoader", "VideoReader", "video_loader"]
